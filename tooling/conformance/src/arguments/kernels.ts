import * as kernels from "@x/kernels";
import { e, type Gpu, type Tensor } from "@x/kernels";
import { construct, valid } from "./calls.js";
import type { Loose, ValidCall, ValidCalls } from "./probe.js";

const f = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 0.5);
const ids = (gpu: Gpu, ...shape: number[]): Tensor => gpu.zeros(shape, "i32");
/** A method of an object, called on it. */
const method = (owner: object, name: string, ...given: unknown[]): ValidCall =>
  valid((Reflect.get(owner, name) as Loose).bind(owner), ...given);
const open = (call: ValidCall, paths: Readonly<Record<string, string>>): ValidCall => ({
  ...call,
  open: paths,
});
const takes = (call: ValidCall, paths: Readonly<Record<string, readonly unknown[]>>): ValidCall => ({
  ...call,
  takes: paths,
});
/** Paths of records by names. */
const named = (call: ValidCall, ...paths: string[]): ValidCall => ({ ...call, named: paths });
const same = (names: readonly string[], make: (gpu: Gpu, op: unknown) => ValidCall): ValidCalls =>
  Object.fromEntries(
    names.map((name) => [name, (gpu: Gpu) => make(gpu, Reflect.get(kernels, name))] as const),
  );
/** What an operand that may be a number takes among the wrong kinds of a tensor. */
const NUMBERS = [0, 5];

const DEVICE: ValidCalls = {
  openDevice: () =>
    valid(
      async (...given: unknown[]) => {
        const gpu = await (kernels.openDevice as Loose)(...given);
        (gpu as Gpu).destroy();
      },
      { memoryBudget: 2 ** 20, poolLimit: 2 ** 16, fillWithNaN: false, features: { f16: false } },
    ),
  "Gpu.tensor": (gpu) => method(gpu, "tensor", [1, 2], [2], "f32"),
  "Gpu.fromBytes": (gpu) => method(gpu, "fromBytes", new Uint8Array(8), [2], "f32"),
  "Gpu.empty": (gpu) => method(gpu, "empty", [2], "f32"),
  "Gpu.zeros": (gpu) => method(gpu, "zeros", [2], "f32"),
  "Gpu.full": (gpu) => takes(method(gpu, "full", [2], 1, "f32"), { "1": [NaN] }),
  "Gpu.scope": (gpu) => method(gpu, "scope", () => 1),
  "Gpu.keep": (gpu) => method(gpu, "keep", f(gpu, 2)),
  "Gpu.memory": (gpu) => method(gpu, "memory"),
  "Gpu.trim": (gpu) => method(gpu, "trim"),
  "Gpu.run": (gpu) =>
    open(
      method(
        gpu,
        "run",
        // A kernel is made by defineKernel, which checks its parts.
        Object.create(
          kernels.defineKernel({
            name: "probe",
            bindings: { out: "write f32" },
            params: { count: "u32" },
            wgsl: () => "@compute @workgroup_size(1) fn main() { out[0] = f32(params.count); }",
          }),
        ),
        { bindings: { out: f(gpu, 2) }, params: { count: 2 }, workgroups: [1, 1, 1] },
      ),
      { "1.bindings.outs": "names of other variants", "1.params.counts": "names of other variants" },
    ),
  "Gpu.copy": (gpu) => method(gpu, "copy", f(gpu, 4), f(gpu, 4), { fromOffset: 1, toOffset: 1, length: 2 }),
  "Gpu.flush": (gpu) => method(gpu, "flush"),
  "Gpu.sync": (gpu) => method(gpu, "sync"),
  "Gpu.record": (gpu) =>
    valid(
      (...given: unknown[]) => {
        ((gpu.record as Loose).bind(gpu)(...given) as { dispose(): void }).dispose();
      },
      () => 1,
    ),
  "Gpu.warmup": (gpu) =>
    method(
      gpu,
      "warmup",
      () => 1,
      () => 1,
    ),
  "Gpu.counters": (gpu) => method(gpu, "counters"),
  tune: (gpu) =>
    open(
      valid(kernels.tune, gpu, {
        store: { load: () => '{"matmul":"tiled","vector":"wide"}', save: () => undefined },
      }),
      { "1.store.loads": "a store may have more" },
    ),
  "Tensor.reshape": (gpu) => method(f(gpu, 2, 3), "reshape", [3, 2]),
  "Tensor.read": (gpu) => method(f(gpu, 2), "read"),
  "Tensor.item": (gpu) => method(f(gpu, 1), "item"),
  "Tensor.write": (gpu) => method(f(gpu, 3), "write", new Float32Array(3)),
};

const optimizer = (gpu: Gpu): kernels.AdamW => new kernels.AdamW({ p: f(gpu, 2, 2) }, { learningRate: 1 });
const rate = { peak: 1, warmup: 2 };
const TRAINING: ValidCalls = {
  applyOp: (gpu) =>
    open(
      valid(kernels.applyOp, {
        name: "probe",
        inputs: [f(gpu, 2)],
        forward: () => ({ outputs: [f(gpu, 2)] }),
        backward: () => [undefined],
      }),
      { "0.name": "a name" },
    ),
  isTracked: (gpu) => valid(kernels.isTracked, [f(gpu, 2)]),
  vjp: (gpu) => {
    const x = f(gpu, 2);
    return valid(kernels.vjp, () => [kernels.square(x)], [x]);
  },
  valueAndGrad: (gpu) => {
    const x = f(gpu, 1);
    return named(
      valid(kernels.valueAndGrad, () => kernels.square(x), { x }),
      "1",
    );
  },
  stopGradient: (gpu) => valid(kernels.stopGradient, f(gpu, 2)),
  noGrad: () => valid(kernels.noGrad, () => 1),
  checkpoint: (gpu) => valid(kernels.checkpoint, (x: Tensor) => [kernels.square(x)], [f(gpu, 2)]),
  AdamW: (gpu) =>
    named(
      construct(
        kernels.AdamW,
        { p: f(gpu, 2, 2) },
        { learningRate: 1, betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0, decays: () => true },
      ),
      "0",
    ),
  "AdamW.advance": (gpu) => method(optimizer(gpu), "advance", 0.1),
  "AdamW.update": (gpu) => named(method(optimizer(gpu), "update", { p: f(gpu, 2, 2) }, f(gpu, 1)), "0"),
  "AdamW.step": (gpu) =>
    named(method(optimizer(gpu), "step", { p: f(gpu, 2, 2) }, { learningRate: 1, scale: f(gpu, 1) }), "0"),
  "AdamW.state": (gpu) => method(optimizer(gpu), "state"),
  "AdamW.restore": (gpu) =>
    method(optimizer(gpu), "restore", { "m.p": new Float32Array(4), "v.p": new Float32Array(4) }, 3),
  clipGradNorm: (gpu) => named(valid(kernels.clipGradNorm, { p: f(gpu, 2) }, 1), "0"),
  constantSchedule: () => valid(kernels.constantSchedule, rate),
  linearSchedule: () => valid(kernels.linearSchedule, { ...rate, steps: 5, floor: 0 }),
  cosineSchedule: () => valid(kernels.cosineSchedule, { ...rate, steps: 5, floor: 0 }),
  warmupStableDecaySchedule: () =>
    valid(kernels.warmupStableDecaySchedule, { ...rate, steps: 5, floor: 0, decay: 2 }),
  inverseSqrtSchedule: () => valid(kernels.inverseSqrtSchedule, rate),
};

const draw = (gpu: Gpu): object => ({ seed: 1, stream: 2, step: gpu.zeros([1], "u32") });
const RANDOM: ValidCalls = {
  dropout: (gpu) => valid(kernels.dropout, f(gpu, 2, 4), 0.5, draw(gpu)),
  randomNormal: (gpu) => valid(kernels.randomNormal, gpu, [5], { ...draw(gpu), mean: 0, std: 1 }),
  randomUniform: (gpu) => valid(kernels.randomUniform, gpu, [5], { ...draw(gpu), low: 0, high: 1 }),
  sample: (gpu) =>
    valid(kernels.sample, f(gpu, 1, 8), { temperature: 1, topK: 2, topP: 0.9, minP: 0.1, ...draw(gpu) }),
  repetitionPenalty: (gpu) => valid(kernels.repetitionPenalty, f(gpu, 1, 8), ids(gpu, 1, 2), 1.2),
};

const unary = [
  ...["abs", "exp", "gelu", "geluTanh", "log", "neg", "relu", "rsqrt", "sigmoid", "silu", "sqrt", "square"],
  "tanh",
];
const binary = [
  ...["add", "sub", "mul", "div", "maximum", "minimum", "less", "lessEqual", "greater", "greaterEqual"],
  ...["equal", "pow"],
];
const ELEMENTWISE: ValidCalls = {
  ...same(unary, (gpu, op) => valid(op, f(gpu, 2, 4))),
  ...same(binary, (gpu, op) => takes(valid(op, f(gpu, 2, 4), f(gpu, 4)), { "0": NUMBERS, "1": NUMBERS })),
  where: (gpu) =>
    takes(valid(kernels.where, ids(gpu, 2), f(gpu, 2), f(gpu, 2)), {
      "0": NUMBERS,
      "1": NUMBERS,
      "2": NUMBERS,
    }),
  clip: (gpu) => takes(valid(kernels.clip, f(gpu, 2, 4), f(gpu, 4), 2), { "1": NUMBERS, "2": [NaN] }),
  cast: (gpu) => valid(kernels.cast, f(gpu, 2), "f32"),
  elementwise: () =>
    open(
      valid(kernels.elementwise, "probe", ["x"], (x: kernels.Expr) => e.mul(x, x)),
      { "0": "a name" },
    ),
  broadcastShapes: () => open(valid(kernels.broadcastShapes, "probe", [[2, 1], [3]]), { "0": "a name" }),
};

const axis = { axis: 0 };
const SHAPES: ValidCalls = {
  broadcastTo: (gpu) => valid(kernels.broadcastTo, f(gpu, 4), [2, 4]),
  concat: (gpu) => valid(kernels.concat, [f(gpu, 2), f(gpu, 2)], 0),
  stack: (gpu) => valid(kernels.stack, [f(gpu, 2), f(gpu, 2)], 0),
  flip: (gpu) => valid(kernels.flip, f(gpu, 2, 4), 0),
  pad: (gpu) => takes(valid(kernels.pad, f(gpu, 2, 4), 0, 1, 1, 0), { "4": [NaN] }),
  repeat: (gpu) => valid(kernels.repeat, f(gpu, 2, 4), 2, 0),
  slice: (gpu) => valid(kernels.slice, f(gpu, 2, 4), { axis: 0, start: 0, end: 1 }),
  split: (gpu) => valid(kernels.split, f(gpu, 2, 4), [1, 3], 1),
  transpose: (gpu) => valid(kernels.transpose, f(gpu, 2, 4), [1, 0]),
  gather: (gpu) => valid(kernels.gather, f(gpu, 5, 8), ids(gpu, 3), 1),
  scatterAdd: (gpu) => valid(kernels.scatterAdd, f(gpu, 3, 4), ids(gpu, 3), 5),
  takeAlong: (gpu) => valid(kernels.takeAlong, f(gpu, 2, 8), ids(gpu, 2, 2), 1),
  takeAlongLast: (gpu) => valid(kernels.takeAlongLast, f(gpu, 2, 8), ids(gpu, 2, 2)),
  gatherND: (gpu) => valid(kernels.gatherND, f(gpu, 2, 8), ids(gpu, 2, 1), { batchDims: 1 }),
  scatterND: (gpu) => valid(kernels.scatterND, f(gpu, 2, 8), ids(gpu, 3, 2), f(gpu, 3), { reduction: "add" }),
  scatterElements: (gpu) =>
    valid(kernels.scatterElements, f(gpu, 2, 8), ids(gpu, 2, 2), f(gpu, 2, 2), {
      axis: 1,
      reduction: "add",
    }),
  embedding: (gpu) => valid(kernels.embedding, f(gpu, 7, 4), ids(gpu, 3)),
  quantize: () => valid(kernels.quantize, new Float32Array(32), "q8_0"),
  dequantize: () => valid(kernels.dequantize, new Uint8Array(34), "q8_0"),
  groupBy: (gpu) => valid(kernels.groupBy, ids(gpu, 4), 4),
};

const REDUCTIONS: ValidCalls = {
  ...same(["softmax", "logSoftmax"], (gpu, op) => valid(op, f(gpu, 2, 4), axis)),
  logSumExp: (gpu) => valid(kernels.logSumExp, f(gpu, 2, 4), { axis: 0, keepDims: true }),
  ...same(["sum", "mean", "variance", "max", "min"], (gpu, op) =>
    valid(op, f(gpu, 2, 4), { axes: [0], keepDims: true }),
  ),
  ...same(["argmax", "argmin"], (gpu, op) =>
    takes(valid(op, f(gpu, 2, 4), { axis: 0, keepDims: true, ties: "last" }), { "1": [1] }),
  ),
  ...same(["sort", "argsort"], (gpu, op) => valid(op, f(gpu, 2, 4), { axis: 0, descending: true })),
  topk: (gpu) => valid(kernels.topk, f(gpu, 2, 4), 2, { axis: 1, largest: true }),
  cumsum: (gpu) => valid(kernels.cumsum, f(gpu, 2, 4), { axis: 0, reverse: true, exclusive: true }),
  associativeScan: () =>
    open(
      valid(kernels.associativeScan, "probe", ["a"], ([l]: kernels.Expr[], [r]: kernels.Expr[]) => [
        e.add(l!, r!),
      ]),
      { "0": "a name" },
    ),
  linearRecurrence: (gpu) =>
    valid(kernels.linearRecurrence, f(gpu, 4), f(gpu, 4), { axis: 0, reverse: true }),
};

const PRODUCTS: ValidCalls = {
  matmul: (gpu) =>
    valid(kernels.matmul, f(gpu, 4, 4), f(gpu, 4, 4), {
      transposeA: true,
      transposeB: true,
      bias: f(gpu, 4),
      activation: "relu",
      residual: f(gpu, 4, 4),
      alpha: 2,
      form: "tiled",
    }),
  adaptLinear: (gpu) =>
    valid(kernels.adaptLinear, f(gpu, 3, 4), { a: f(gpu, 2, 4), b: f(gpu, 3, 2), scale: 0.5 }),
  isAdapted: (gpu) => valid(kernels.isAdapted, f(gpu, 3, 4)),
  linear: (gpu) =>
    valid(kernels.linear, f(gpu, 2, 4), f(gpu, 3, 4), f(gpu, 3), {
      activation: "relu",
      residual: f(gpu, 2, 3),
      alpha: 2,
    }),
  groupedMatmul: (gpu) =>
    valid(kernels.groupedMatmul, f(gpu, 6, 8), f(gpu, 2, 3, 8), gpu.zeros([3], "u32"), {
      bias: f(gpu, 2, 3),
    }),
  causalConv1d: (gpu) =>
    valid(kernels.causalConv1d, f(gpu, 1, 6, 4), f(gpu, 4, 3), {
      bias: f(gpu, 4),
      state: f(gpu, 1, 2, 4),
    }),
  crossEntropy: (gpu) =>
    valid(kernels.crossEntropy, f(gpu, 3, 9), ids(gpu, 3), {
      ignoreIndex: -1,
      reduction: "sum",
      axis: 1,
      classWeights: f(gpu, 9),
      labelSmoothing: 0,
      zLoss: 0.1,
    }),
  negativeLogLikelihood: (gpu) =>
    valid(kernels.negativeLogLikelihood, f(gpu, 3, 9), ids(gpu, 3), {
      ignoreIndex: -1,
      reduction: "sum",
      axis: 1,
      classWeights: f(gpu, 9),
    }),
  linearCrossEntropy: (gpu) =>
    valid(kernels.linearCrossEntropy, f(gpu, 3, 8), f(gpu, 9, 8), ids(gpu, 3), {
      ignoreIndex: -1,
      reduction: "sum",
      labelSmoothing: 0.1,
      zLoss: 0.1,
      chunkBytes: 4096,
    }),
};

const COMPONENTS: ValidCalls = {
  namedParameters: (gpu) => named(valid(kernels.namedParameters, { w: f(gpu, 2) }), "0"),
  subParameters: (gpu) =>
    open(named(valid(kernels.subParameters, { "a.w": f(gpu, 2) }, "a"), "0"), { "1": "a name" }),
  takeParameter: (gpu) =>
    open(valid(kernels.takeParameter, "probe", { w: f(gpu, 2) }, "w"), {
      "0": "a name",
      "1.ws": "not taken",
    }),
  initParameters: (gpu) =>
    open(
      named(valid(kernels.initParameters, "probe", gpu, { w: kernels.ones(2) }, { seed: 1, stream: 2 }), "2"),
      {
        "0": "a name",
      },
    ),
  checkParameters: (gpu) =>
    open(named(valid(kernels.checkParameters, "probe", { w: kernels.ones(2) }, { w: f(gpu, 2) }), "1"), {
      "0": "a name",
    }),
};

/** A valid call of every export of @x/kernels that is not in `KERNELS_APART`. */
export const KERNELS: ValidCalls = {
  ...DEVICE,
  ...TRAINING,
  ...RANDOM,
  ...ELEMENTWISE,
  ...SHAPES,
  ...REDUCTIONS,
  ...PRODUCTS,
  ...COMPONENTS,
};

const INTERNAL = "internal";
const RULE = "a check or a text for errors, which other functions call with what they were given";
const AUTHOR = "a part of a kernel's text or of an operation's host code, called by code at module level";

/** What @x/kernels exports that is not probed, and why. */
export const KERNELS_APART: Readonly<Record<string, string>> = {
  Gpu: "made by openDevice",
  "Gpu.within": INTERNAL,
  "Gpu.writeBytes": INTERNAL,
  "Gpu.readBytes": INTERNAL,
  "Gpu.profile": "needs timestamp queries; the kernels' own tests call it",
  "Gpu.destroy": "without arguments, and it would end the test's device",
  Tensor: "made by a device",
  "Tensor.isInstance": "takes every value",
  "Tensor.alias": INTERNAL,
  "Tensor.hold": INTERNAL,
  "Tensor.unhold": INTERNAL,
  "Tensor.moveTo": INTERNAL,
  Component: "abstract; probed through the components of the packages",
  "Component.init": "probed through the components of the packages",
  "Component.own": "for subclasses",
  ...Object.fromEntries(
    Object.entries(kernels)
      .filter(([, value]) => typeof value === "function" && value.prototype instanceof Error)
      .flatMap(([name]) => [
        [name, "an error, made of texts"],
        [`${name}.isInstance`, "takes every value"],
      ]),
  ),
  ...apart(
    RULE,
    ["checkConfig", "expectBoolean", "expectDType", "expectFunction", "expectGpu", "expectInteger"],
    ["expectNoMore", "expectNumber", "expectObject", "expectOneOf", "expectRecord", "expectShape"],
    ["expectTensor", "expectTensors", "nearest", "normalizeAxis", "showShape", "sizeOf"],
  ),
  ...apart(
    AUTHOR,
    [
      "addInto",
      "sumMiddle",
      "sumToShape",
      "stridedCopy",
      "stridesOf",
      "grid1d",
      "flatGrid",
      "flatMain",
      "foldLanes",
      "groupMain",
    ],
    ["rowElement", "rowLanes", "rowMain", "rowPrelude", "rowVariant", "derive", "input", "exprFunction"],
    ["exprToWgsl", "activationExpr", "gatedUnit", "defineKernel", "RelativeIndex", "RelativeIndex.at"],
    ["RelativeIndex.table", "initParameter", "matrix", "ones", "zeros", "prefixed", "schema", "boolean"],
    ["either", "integer", "listOf", "nested", "number", "oneOf", "tensor", "text", "value"],
    ["fromHalfBits", "toBfloat16Bits", "toHalfBits"],
    ["svgLine", "svgPath", "svgPicture", "svgRect", "svgText", "svgTextWidth"],
  ),
};

function apart(why: string, ...names: readonly (readonly string[])[]): Record<string, string> {
  return Object.fromEntries(names.flat().map((name) => [name, why]));
}
