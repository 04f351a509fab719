import { sumMiddle } from "../tensor/reduce.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  expectFloat,
  checkConfig,
  expectBoolean,
  expectIntegers,
  expectTensor,
  normalizeAxis,
  sizeOf,
} from "../base/validate.js";
import { mul, sub, square } from "./arithmetic.js";
import { broadcastTo } from "./shape.js";

export interface ReduceOptions {
  /** Axis or axes to reduce; default all. */
  readonly axes?: number | readonly number[];
  /** Keep reduced axes with extent one. */
  readonly keepDims?: boolean;
}

/** Check the arguments of a reduction: which axes go, the shape with them kept, and that of the result. */
export function reducedAxes(
  who: string,
  x: Tensor,
  options: ReduceOptions,
): { axes: number[]; kept: number[]; shape: number[] } {
  expectTensor(who, "x", x);
  checkConfig(who, options, ["axes", "keepDims"]);
  const { axes, keepDims = false } = options;
  if (axes !== undefined && typeof axes !== "number") expectIntegers(who, "axes", axes);
  expectBoolean(who, "keepDims", keepDims);
  const list = axes === undefined ? x.shape.map((_, i) => i) : typeof axes === "number" ? [axes] : axes;
  const chosen = [...new Set(list.map((axis) => normalizeAxis(who, axis, x.rank)))].sort((a, b) => a - b);
  const kept = x.shape.map((n, i) => (chosen.includes(i) ? 1 : n));
  return { axes: chosen, kept, shape: keepDims ? kept : x.shape.filter((_, i) => !chosen.includes(i)) };
}

/** Apply a reduction of the middle of [outer, extent, inner] to runs of neighbouring axes. */
function reduceRuns(
  x: Tensor,
  axes: readonly number[],
  reduce: (x: Tensor, outer: number, extent: number, inner: number) => Tensor,
): Tensor {
  let value = x;
  let dims = [...x.shape];
  for (let i = axes.length - 1; i >= 0;) {
    let start = i;
    while (start > 0 && axes[start - 1] === axes[start]! - 1) start--;
    const [from, to] = [axes[start]!, axes[i]! + 1];
    value = reduce(value, sizeOf(dims.slice(0, from)), sizeOf(dims.slice(from, to)), sizeOf(dims.slice(to)));
    dims = dims.map((n, axis) => (axis >= from && axis < to ? 1 : n));
    i = start - 1;
  }
  return value;
}

function expand(g: Tensor, kept: readonly number[], shape: readonly number[]): Tensor {
  return broadcastTo(g.alias(kept), shape);
}

/** Sum over axes, accumulated in float32 in a fixed order. */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  const { axes, kept, shape } = reducedAxes("sum", x, options);
  expectFloat("sum", "x", x);
  return applyOp({
    name: "sum",
    inputs: [x],
    forward: () => ({ outputs: [reduceRuns(x, axes, sumMiddle).alias(shape)] }),
    backward: ({ grads }) => [expand(grads[0]!, kept, x.shape)],
  })[0]!;
}

/** Mean over axes. */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  const { axes } = reducedAxes("mean", x, options);
  const count = sizeOf(axes.map((axis) => x.shape[axis]!));
  return x.gpu.scope(() => mul(sum(x, options), 1 / count));
}

/** Mean of squared deviations over axes (biased, as in normalisation). */
export function variance(x: Tensor, options: ReduceOptions = {}): Tensor {
  reducedAxes("variance", x, options);
  return x.gpu.scope(() => mean(square(sub(x, mean(x, { ...options, keepDims: true }))), options));
}
