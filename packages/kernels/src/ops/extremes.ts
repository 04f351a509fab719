import { flatMain } from "../kernel/flat_grid.js";
import { ShapeError } from "../base/errors.js";
import type { DType } from "../base/dtype.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectBoolean,
  expectNoMore,
  expectOneOf,
  expectTensor,
  normalizeAxis,
  showShape,
  sizeOf,
} from "../base/validate.js";
import { extremeRank } from "./order.wgsl.js";
import { reducedAxes, type ReduceOptions } from "./reductions.js";

interface ExtremeVariant {
  readonly dtype: DType;
  readonly largest: boolean;
  /** On ties the last position, in place of the first. */
  readonly last: boolean;
}

/** Extreme along the middle axis and its position; one invocation per output. */
const extremeKernel = defineKernel({
  name: "extreme",
  bindings: (v: ExtremeVariant) => ({
    x: `read ${v.dtype}`,
    value: `write ${v.dtype}`,
    index: "write i32",
  }),
  params: { outer: "u32", extent: "u32", inner: "u32" },
  wgsl: (v) => /* wgsl */ `
${extremeRank(v.dtype, v.largest)}
${flatMain("i", "params.outer * params.inner")}
  let first = i / params.inner * params.extent * params.inner + i % params.inner;
  var best = rank_of(x[first]);
  var at = 0u;
  for (var r = 1u; r < params.extent; r++) {
    let rank = rank_of(x[first + r * params.inner]);
    if (rank ${v.last ? ">=" : ">"} best) { best = rank; at = r; }
  }
  value[i] = x[first + at * params.inner];
  index[i] = i32(at);
}`,
});

const spreadKernel = defineKernel({
  name: "extremeBackward",
  bindings: (v: { dtype: string }) => ({
    grad: `read ${v.dtype}`,
    index: "read i32",
    out: `read_write ${v.dtype}`,
  }),
  params: { outer: "u32", extent: "u32", inner: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.outer * params.inner")}
  out[(i / params.inner * params.extent + u32(index[i])) * params.inner + i % params.inner] = grad[i];
}`,
});

interface Which {
  readonly keepDims: boolean;
  readonly largest: boolean;
  readonly last: boolean;
}

function extreme(
  who: string,
  x: Tensor,
  axis: number,
  { keepDims, largest, last }: Which,
): { values: Tensor; indices: Tensor } {
  const along = normalizeAxis(who, axis, x.rank);
  const [outer, extent, inner] = [
    sizeOf(x.shape.slice(0, along)),
    x.shape[along]!,
    sizeOf(x.shape.slice(along + 1)),
  ];
  if (extent === 0)
    throw new ShapeError(who, `axis ${along} of ${showShape(x.shape)} is empty; it must have an element`);
  const shape = keepDims
    ? x.shape.map((n, i) => (i === along ? 1 : n))
    : x.shape.filter((_, i) => i !== along);
  const workgroups = grid1d(Math.ceil((outer * inner) / 64));
  const params = { outer, extent, inner };
  const [values, indices] = applyOp({
    name: who,
    inputs: [x],
    forward: () => {
      const value = x.gpu.empty(shape, x.dtype);
      const index = x.gpu.empty(shape, "i32");
      x.gpu.run(extremeKernel, {
        variant: { dtype: x.dtype, largest, last },
        bindings: { x, value, index },
        params,
        workgroups,
      });
      return { outputs: [value, index] };
    },
    backward: ({ grads, outputs }) => {
      const out = x.gpu.zeros(x.shape, x.dtype);
      if (grads[0]) {
        x.gpu.run(spreadKernel, {
          variant: { dtype: x.dtype },
          bindings: { grad: grads[0], index: outputs[1]!, out },
          params,
          workgroups,
        });
      }
      return [out];
    },
  });
  return { values: values!, indices: indices! };
}

function extremeOver(who: string, x: Tensor, options: ReduceOptions, largest: boolean): Tensor {
  const { axes, kept, shape } = reducedAxes(who, x, options);
  const which = { keepDims: true, largest, last: false };
  if (axes.length === 0) return x.reshape(shape);
  return x.gpu.scope(() => {
    let value = x;
    if (axes.length === x.rank) value = extreme(who, x.reshape([x.size]), 0, which).values;
    else for (const axis of axes) value = extreme(who, value, axis, which).values;
    return value.reshape(kept).reshape(shape);
  });
}

/**
 * Largest element over axes; on ties the gradient goes to the first. NaN spreads, as in NumPy and ONNX: where one of
 * the elements is NaN, so is the result.
 */
export function max(x: Tensor, options: ReduceOptions = {}): Tensor {
  return extremeOver("max", x, options, true);
}

/** Smallest element over axes; ties and NaN as in `max`. */
export function min(x: Tensor, options: ReduceOptions = {}): Tensor {
  return extremeOver("min", x, options, false);
}

export interface ArgExtremeOptions {
  /** Axis along which to look; default the last. */
  readonly axis?: number;
  /** Keep the axis with extent one. */
  readonly keepDims?: boolean;
  /** Which of equal elements counts; default the first. */
  readonly ties?: "first" | "last";
}

function argExtreme(who: string, x: Tensor, given: number | ArgExtremeOptions, largest: boolean): Tensor {
  expectTensor(who, "x", x);
  const options = typeof given === "number" ? { axis: given } : given;
  checkConfig(who, options, ["axis", "keepDims", "ties"]);
  const { axis = -1, keepDims = false, ties = "first" } = options;
  expectBoolean(who, "keepDims", keepDims);
  expectOneOf(who, "ties", ties, ["first", "last"]);
  return x.gpu.scope(() => extreme(who, x, axis, { keepDims, largest, last: ties === "last" }).indices);
}

/**
 * Position (i32) of the largest element along an axis; of equal elements that of the first, or of the last with
 * `ties: "last"`. A NaN counts as larger than all, so that its position is found.
 */
export function argmax(x: Tensor, axis: number | ArgExtremeOptions = -1, ...rest: never[]): Tensor {
  expectNoMore("argmax", rest);
  return argExtreme("argmax", x, axis, true);
}

/** Position (i32) of the smallest element along an axis; ties as in `argmax`, and a NaN counts as smaller than all. */
export function argmin(x: Tensor, axis: number | ArgExtremeOptions = -1, ...rest: never[]): Tensor {
  expectNoMore("argmin", rest);
  return argExtreme("argmin", x, axis, false);
}
