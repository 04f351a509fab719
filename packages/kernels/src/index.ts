export { openDevice, type OpenDeviceOptions } from "./device/device.js";
export { Gpu } from "./device/gpu.js";
export type { Recording } from "./device/recording.js";
export type { KernelTime } from "./queue/timing.js";
export type { Tuning } from "./device/tuning.js";
export { tune, type TuningStore } from "./ops/matmul/tune.js";
export { Tensor } from "./tensor/tensor.js";
export type { DType, ElementType, HostArray, StoredType } from "./base/dtype.js";
export { dequantize, quantize, type QuantizedType } from "./stored/quantize.js";
export { BYTES_PER_ELEMENT, fromHalfBits, toBfloat16Bits, toHalfBits } from "./base/dtype.js";
export type { MemoryStatistics } from "./memory/memory.js";
export { VERSION } from "./base/abi.js";
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
  type KernelNames,
  type KernelSource,
  type ParamType,
  type ParamValue,
  type TensorSlice,
} from "./kernel/kernel.js";
export { flatGrid, flatMain, groupMain } from "./kernel/flat_grid.js";
export { foldLanes } from "./kernel/fold_lanes.js";
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
} from "./tensor/tape.js";
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
} from "./base/errors.js";
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
} from "./base/validate.js";
export { namedParameters, subParameters, takeParameter, type Module } from "./component/module.js";
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
export { addInto, sumMiddle, sumToShape } from "./tensor/reduce.js";
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
