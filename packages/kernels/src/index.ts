export { openDevice, type OpenDeviceOptions } from "./device.js";
export { Gpu } from "./gpu.js";
export type { Recording } from "./recording.js";
export type { KernelTime } from "./timing.js";
export { tune, type Tuning, type TuningStore } from "./tune.js";
export { Tensor } from "./tensor.js";
export type { DType, HostArray } from "./dtype.js";
export { BYTES_PER_ELEMENT, fromHalfBits, toBfloat16Bits, toHalfBits } from "./dtype.js";
export type { MemoryStatistics } from "./memory.js";
export { VERSION } from "./abi.js";
export {
  defineKernel,
  grid1d,
  type AdapterDescription,
  type Bindable,
  type BindingSpec,
  type GpuFeatures,
  type Kernel,
  type KernelCall,
  type KernelEnvironment,
  type KernelSource,
  type ParamType,
  type ParamValue,
  type TensorSlice,
} from "./kernel.js";
export { flatGrid, flatMain } from "./flat_grid.js";
export {
  applyOp,
  checkpoint,
  isTracked,
  noGrad,
  stopGradient,
  valueAndGrad,
  vjp,
  type BackwardContext,
  type ForwardResult,
  type OpSpec,
  type Pullback,
} from "./tape.js";
export {
  AdapterNotFoundError,
  ConfigError,
  DeviceLostError,
  DisposedError,
  DTypeError,
  DuplicatePackageError,
  FormatError,
  GpuValidationError,
  KernelsError,
  OutOfMemoryError,
  ShapeError,
  type KernelsErrorCode,
} from "./errors.js";
export {
  checkConfig,
  expectBoolean,
  expectDType,
  expectFunction,
  expectGpu,
  expectInteger,
  expectNoMore,
  expectNumber,
  expectObject,
  expectOneOf,
  expectRecord,
  expectShape,
  expectTensor,
  expectTensors,
  nearest,
  normalizeAxis,
  showShape,
  sizeOf,
} from "./validate.js";
export { namedParameters, subParameters, takeParameter, type Module } from "./module.js";
export * from "./component/index.js";
export { e, input, type Expr, type Operand } from "./expr/expr.js";
export { derive } from "./expr/derive.js";
export { exprFunction, exprToWgsl, type ExprCode, type ExprType } from "./expr/wgsl.js";
export {
  ACTIVATIONS,
  activationExpr,
  GLU_GATES,
  type Activation,
  type ActivationName,
  type GluKind,
} from "./expr/activation.js";
export { broadcastShapes, cast, elementwise } from "./ops/elementwise.js";
export {
  abs,
  add,
  clip,
  div,
  equal,
  exp,
  gelu,
  geluTanh,
  greater,
  greaterEqual,
  less,
  lessEqual,
  log,
  maximum,
  minimum,
  mul,
  neg,
  relu,
  rsqrt,
  sigmoid,
  silu,
  sqrt,
  square,
  sub,
  tanh,
  where,
} from "./ops/arithmetic.js";
export * from "./ops/index.js";
export * from "./optim/index.js";
export * from "./random/index.js";
export * from "./contract/index.js";
export { addInto, sumMiddle, sumToShape } from "./reduce.js";
export {
  svgLine,
  svgPath,
  svgPicture,
  svgRect,
  svgText,
  svgTextWidth,
  type SvgColour,
  type SvgShapeOptions,
  type SvgTextOptions,
} from "./svg.js";
