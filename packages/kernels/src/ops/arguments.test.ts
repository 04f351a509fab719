import { describe, expect, it } from "vitest";
import * as arithmetic from "./arithmetic.js";
import * as ops from "./index.js";
import * as random from "../random/index.js";
import { cast, e, elementwise, KernelsError, type Gpu, type Tensor } from "../index.js";
import { useGpu } from "../test-support.js";

const device = useGpu();

/** A function as JavaScript may call it. */
type Loose = (...given: unknown[]) => unknown;

const f = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 0.5);
const ids = (gpu: Gpu, ...shape: number[]): Tensor => gpu.zeros(shape, "i32");

const unary = (gpu: Gpu): unknown[] => [f(gpu, 2, 4)];
const binary = (gpu: Gpu): unknown[] => [f(gpu, 2, 4), f(gpu, 4)];
/** Tensors first, then an object of options, which is where an unknown key goes. */
const withOptions = (gpu: Gpu): unknown[] => [f(gpu, 2, 4), {}];

const scan = ops.associativeScan("sumOfTwo", ["a"], ([l], [r]) => [e.add(l!, r!)]);
const square = elementwise("square", ["x"], (x) => e.mul(x, x));

/** A valid call of every public op. An op without options gets the unknown ones after its last argument. */
const CALLS: Readonly<Record<string, (gpu: Gpu) => unknown[]>> = {
  ...Object.fromEntries(
    Object.entries(arithmetic).map(([name, op]) => [name, op.length === 1 ? unary : binary] as const),
  ),
  ...Object.fromEntries(
    [
      "abs",
      "exp",
      "gelu",
      "geluTanh",
      "log",
      "neg",
      "relu",
      "rsqrt",
      "sigmoid",
      "silu",
      "sqrt",
      "square",
    ].map((name) => [name, unary]),
  ),
  tanh: unary,
  where: (gpu) => [ids(gpu, 2), f(gpu, 2), f(gpu, 2)],
  cast: (gpu) => [f(gpu, 2), "f32"],
  elementwise: unary,
  matmul: (gpu) => [f(gpu, 2, 4), f(gpu, 4, 3), {}],
  adaptLinear: (gpu) => [f(gpu, 3, 4), { a: f(gpu, 2, 4), b: f(gpu, 3, 2), scale: 2 }],
  isAdapted: (gpu) => [f(gpu, 3, 4)],
  linear: (gpu) => [f(gpu, 2, 4), f(gpu, 3, 4), f(gpu, 3), {}],
  broadcastTo: (gpu) => [f(gpu, 4), [2, 4]],
  concat: (gpu) => [[f(gpu, 2), f(gpu, 2)], 0],
  stack: (gpu) => [[f(gpu, 2), f(gpu, 2)], 0],
  flip: (gpu) => [f(gpu, 2, 4), 0],
  pad: (gpu) => [f(gpu, 2, 4), 0, 1, 1, 0],
  repeat: (gpu) => [f(gpu, 2, 4), 2, 0],
  slice: (gpu) => [f(gpu, 2, 4), { axis: 0 }],
  split: (gpu) => [f(gpu, 2, 4), [1, 3], 1],
  transpose: (gpu) => [f(gpu, 2, 4), [1, 0]],
  ...Object.fromEntries(
    ["softmax", "logSoftmax", "logSumExp", "sum", "mean", "variance", "max", "min", "sort", "argsort"].map(
      (name) => [name, withOptions],
    ),
  ),
  cumsum: withOptions,
  argmax: withOptions,
  argmin: withOptions,
  topk: (gpu) => [f(gpu, 2, 4), 2, {}],
  associativeScan: (gpu) => [[f(gpu, 4)], {}],
  linearRecurrence: (gpu) => [f(gpu, 4), f(gpu, 4), {}],
  causalConv1d: (gpu) => [f(gpu, 1, 6, 4), f(gpu, 4, 3), {}],
  clip: (gpu) => [f(gpu, 2, 4), f(gpu, 4), 2],
  pow: (gpu) => [f(gpu, 2, 4), f(gpu, 4)],
  takeAlong: (gpu) => [f(gpu, 2, 8), ids(gpu, 2, 2), 1],
  gatherND: (gpu) => [f(gpu, 2, 8), ids(gpu, 2, 2), {}],
  scatterND: (gpu) => [f(gpu, 2, 8), ids(gpu, 3, 2), f(gpu, 3), {}],
  scatterElements: (gpu) => [f(gpu, 2, 8), ids(gpu, 2, 2), f(gpu, 2, 2), {}],
  embedding: (gpu) => [f(gpu, 7, 4), ids(gpu, 3)],
  gather: (gpu) => [f(gpu, 5, 8), ids(gpu, 3), 1],
  scatterAdd: (gpu) => [f(gpu, 3, 4), ids(gpu, 3), 5],
  takeAlongLast: (gpu) => [f(gpu, 2, 8), ids(gpu, 2, 2)],
  groupBy: (gpu) => [ids(gpu, 4), 4],
  groupedMatmul: (gpu) => [f(gpu, 6, 8), f(gpu, 2, 3, 8), gpu.zeros([3], "u32"), {}],
  crossEntropy: (gpu) => [f(gpu, 3, 9), ids(gpu, 3), {}],
  negativeLogLikelihood: (gpu) => [f(gpu, 3, 9), ids(gpu, 3), {}],
  linearCrossEntropy: (gpu) => [f(gpu, 3, 8), f(gpu, 9, 8), ids(gpu, 3), {}],
  dropout: (gpu) => [f(gpu, 2, 4), 0.5, { seed: 1 }],
  randomNormal: (gpu) => [gpu, [5], { seed: 1 }],
  randomUniform: (gpu) => [gpu, [5], { seed: 1 }],
  sample: (gpu) => [f(gpu, 1, 8), { seed: 1 }],
  repetitionPenalty: (gpu) => [f(gpu, 1, 8), ids(gpu, 1, 2), 1.2],
};

/** Exports that are not ops on tensors. */
const NO_OPS = ["rowElement", "rowLanes", "rowMain", "rowPrelude", "rowVariant", "stridedCopy", "stridesOf"];

const OPS: Readonly<Record<string, Loose>> = {
  ...Object.fromEntries(
    Object.entries({ ...arithmetic, ...ops, ...random, cast }).flatMap(([name, value]) =>
      typeof value === "function" && !NO_OPS.includes(name) ? [[name, value as Loose]] : [],
    ),
  ),
  associativeScan: scan as Loose,
  elementwise: square as Loose,
};

const isTensor = (value: unknown): value is Tensor =>
  typeof value === "object" && value !== null && "gpu" in value;
const isOptions = (value: unknown): value is object =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;

describe("every public op refuses what it does not know", () => {
  it("is in the list above", () => {
    expect(Object.keys(OPS).filter((name) => !(name in CALLS))).toEqual([]);
  });

  it.each(Object.keys(OPS))("%s", (name) => {
    const { gpu } = device;
    const op = OPS[name]!;
    const failures: string[] = [];
    gpu.scope(() => {
      const valid = CALLS[name]!(gpu);
      op(...valid);
      const refused = (what: string, given: readonly unknown[], expected: RegExp): void => {
        const before = gpu.memory().liveBuffers;
        try {
          op(...given);
          failures.push(`${what} is taken`);
        } catch (error) {
          if (!KernelsError.isInstance(error) || !expected.test(error.message))
            failures.push(`${what}: ${String(error)}`);
        }
        if (gpu.memory().liveBuffers !== before)
          failures.push(`${what} was refused after the work had begun`);
      };
      const swap = (i: number, value: unknown): unknown[] => valid.map((v, j) => (j === i ? value : v));
      const last = valid.length - 1;
      if (isOptions(valid[last])) {
        refused("an unknown option", swap(last, { ...valid[last], keepdim: true }), /unknown key "keepdim"/);
        if (name !== "argmax" && name !== "argmin")
          refused("a number for the options", swap(last, 1), /1; it must be an object/);
        refused("an array for the options", swap(last, [0]), /it must be an object/);
        refused("a tensor for the options", swap(last, f(gpu, 2)), /it must be an object/);
        refused("null for the options", swap(last, null), /null; it must be an object/);
      } else {
        refused("an argument too many", [...valid, { axis: 0 }], /too many|takes/);
      }
      valid.forEach((value, i) => {
        const tensors = Array.isArray(value) ? value.some(isTensor) : isTensor(value);
        if (tensors) {
          refused(`a plain array for argument ${i}`, swap(i, [1, 2, 3]), /must be a (list of )?tensor/);
          refused(`an object for argument ${i}`, swap(i, { shape: [2] }), /must be a (list of )?tensor/);
          if (!(name === "linear" && i === 2) && !(name === "clip" && i === 1))
            refused(`nothing for argument ${i}`, swap(i, undefined), /must be/);
        } else if (Array.isArray(value)) {
          refused(`a number for argument ${i}`, swap(i, 3), /must be a list/);
        } else if (typeof value === "number") {
          refused(`an object for argument ${i}`, swap(i, {}), /must be/);
        }
      });
    });
    expect(failures).toEqual([]);
  });

  it.each<[string, (x: Tensor) => unknown, RegExp]>([
    ["sum by axis", (x) => (ops.sum as Loose)(x, { axis: 1 }), /unknown key "axis"; did you mean "axes"\?/],
    ["keepdims", (x) => (ops.sum as Loose)(x, { axes: 1, keepdims: true }), /did you mean "keepDims"\?/],
    ["sum by number", (x) => (ops.sum as Loose)(x, 1), /is 1; it must be an object/],
    ["transpose by two numbers", (x) => (ops.transpose as Loose)(x, 0, 1), /axes is 0; it must be a list/],
    ["split by a number", (x) => (ops.split as Loose)(x, 3, 1), /sizes is 3; it must be a list/],
    [
      "an axis as text",
      (x) => (ops.gather as Loose)(x, ids(x.gpu, 1), "1"),
      /axis is "1"; it must be an integer/,
    ],
    ["an axis that x lacks", (x) => ops.softmax(x, { axis: 2 }), /axis is 2; it must lie in -2\.\.1/],
    [
      "a flag that is a number",
      (x) => (ops.sort as Loose)(x, { descending: 1 }),
      /descending is 1; it must be true or false/,
    ],
  ])("%s", (_, call, message) => {
    device.gpu.scope(() => {
      expect(() => call(f(device.gpu, 2, 4))).toThrow(message);
    });
  });
});
