import { DTypeError, ShapeError } from "../errors.js";
import { isFloat } from "../dtype.js";
import { defineKernel, grid1d, type Kernel } from "../kernel.js";
import { sumMiddle } from "../reduce.js";
import { applyOp } from "../tape.js";
import type { Tensor } from "../tensor.js";
import { normalizeAxis, showShape, sizeOf } from "../validate.js";
import { mul, sub, square } from "./arithmetic.js";
import { broadcastTo } from "./shape.js";
import { rowElement, rowMain, rowPrelude, rowVariant, type RowVariant } from "./rows.js";

export interface ReduceOptions {
  /** Axis or axes to reduce; default all. */
  readonly axes?: number | readonly number[];
  /** Keep reduced axes with extent one. */
  readonly keepDims?: boolean;
}

function reducedAxes(
  who: string,
  x: Tensor,
  options: ReduceOptions,
): { axes: number[]; kept: number[]; shape: number[] } {
  const { axes, keepDims = false } = options;
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
  if (!isFloat(x.dtype)) throw new DTypeError("sum", `x is ${x.dtype}; it must be f32 or f16`);
  const { axes, kept, shape } = reducedAxes("sum", x, options);
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
  return x.gpu.scope(() => mean(square(sub(x, mean(x, { ...options, keepDims: true }))), options));
}

interface ExtremeVariant {
  readonly dtype: string;
  readonly largest: boolean;
}

/** Extreme along the middle axis and its first position; one thread per output. */
const extremeKernel: Kernel<ExtremeVariant> = defineKernel({
  name: "extreme",
  bindings: (v: ExtremeVariant) => ({
    x: `read ${v.dtype}` as const,
    value: `write ${v.dtype}` as const,
    index: "write i32" as const,
  }),
  params: { outer: "u32", extent: "u32", inner: "u32" },
  wgsl: (v) => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.outer * params.inner) { return; }
  let first = i / params.inner * params.extent * params.inner + i % params.inner;
  var best = x[first];
  var at = 0u;
  for (var r = 1u; r < params.extent; r++) {
    let y = x[first + r * params.inner];
    if (y ${v.largest ? ">" : "<"} best) { best = y; at = r; }
  }
  value[i] = best;
  index[i] = i32(at);
}`,
});

const spreadKernel: Kernel<{ dtype: string }> = defineKernel({
  name: "extremeBackward",
  bindings: (v: { dtype: string }) => ({
    grad: `read ${v.dtype}` as const,
    index: "read i32" as const,
    out: `read_write ${v.dtype}` as const,
  }),
  params: { outer: "u32", extent: "u32", inner: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.outer * params.inner) { return; }
  out[(i / params.inner * params.extent + u32(index[i])) * params.inner + i % params.inner] = grad[i];
}`,
});

function extreme(
  who: string,
  x: Tensor,
  axis: number,
  keepDims: boolean,
  largest: boolean,
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
        variant: { dtype: x.dtype, largest },
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
  if (axes.length === 0) return x.reshape(shape);
  return x.gpu.scope(() => {
    let value = x;
    if (axes.length === x.rank) value = extreme(who, x.reshape([x.size]), 0, true, largest).values;
    else for (const axis of axes) value = extreme(who, value, axis, true, largest).values;
    return value.reshape(kept).reshape(shape);
  });
}

/** Largest element over axes; the gradient goes to its first position. */
export function max(x: Tensor, options: ReduceOptions = {}): Tensor {
  return extremeOver("max", x, options, true);
}

/** Smallest element over axes; the gradient goes to its first position. */
export function min(x: Tensor, options: ReduceOptions = {}): Tensor {
  return extremeOver("min", x, options, false);
}

/** Position (i32) of the largest element along an axis; the first one on ties. */
export function argmax(x: Tensor, axis = -1): Tensor {
  return x.gpu.scope(() => extreme("argmax", x, axis, false, true).indices);
}

// ---- softmax family ------------------------------------------------------------------------------------------

interface SoftmaxVariant extends RowVariant {
  readonly log: boolean;
}

const softmaxKernel: Kernel<SoftmaxVariant> = defineKernel({
  name: "softmax",
  bindings: (v: SoftmaxVariant) => ({
    x: `read ${rowElement(v)}` as const,
    out: `write ${rowElement(v)}` as const,
  }),
  params: { rows: "u32", width: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  var m = T(-3.4028234e38);
  for (var i = lane; i < pieces; i += WIDTH) { m = max(m, T(x[first + i])); }
  let top = row_max(fold_max(m), lane);
  var s = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { s += exp(T(x[first + i]) - top); }
  let total = row_sum(fold_sum(s), lane);
  ${v.log ? "let shift = top + log(total);" : "let scale = 1.0 / total;"}
  for (var i = lane; i < pieces; i += WIDTH) {
    out[first + i] = ${rowElement(v)}(${v.log ? "T(x[first + i]) - shift" : "exp(T(x[first + i]) - top) * scale"});
  }`,
)}`,
});

const softmaxBackwardKernel: Kernel<SoftmaxVariant> = defineKernel({
  name: "softmaxBackward",
  bindings: (v: SoftmaxVariant) => ({
    y: `read ${rowElement(v)}` as const,
    grad: `read ${rowElement(v)}` as const,
    out: `write ${rowElement(v)}` as const,
  }),
  params: { rows: "u32", width: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  var s = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { s += T(grad[first + i])${v.log ? "" : " * T(y[first + i])"}; }
  let total = row_sum(fold_sum(s), lane);
  for (var i = lane; i < pieces; i += WIDTH) {
    let y_i = T(y[first + i]);
    out[first + i] = ${rowElement(v)}(${v.log ? "T(grad[first + i]) - exp(y_i) * total" : "y_i * (T(grad[first + i]) - total)"});
  }`,
)}`,
});

function softmaxOp(who: string, x: Tensor, log: boolean): Tensor {
  if (!isFloat(x.dtype)) throw new DTypeError(who, `x is ${x.dtype}; it must be f32 or f16`);
  if (x.rank === 0) throw new ShapeError(who, "x is a scalar; it must have at least one axis");
  const width = x.shape.at(-1)!;
  const rows = width === 0 ? 0 : x.size / width;
  const variant = { ...rowVariant(x, width), log };
  const call = { variant, params: { rows, width }, workgroups: grid1d(rows) };
  return applyOp({
    name: who,
    inputs: [x],
    forward: () => {
      const out = x.gpu.empty(x.shape, x.dtype);
      x.gpu.run(softmaxKernel, { ...call, bindings: { x, out } });
      return { outputs: [out] };
    },
    backward: ({ grads, outputs }) => {
      const out = x.gpu.empty(x.shape, x.dtype);
      x.gpu.run(softmaxBackwardKernel, { ...call, bindings: { y: outputs[0]!, grad: grads[0]!, out } });
      return [out];
    },
  })[0]!;
}

/** softmax(x)_i = e^{x_i} / sum_j e^{x_j} over the last axis. */
export function softmax(x: Tensor): Tensor {
  return softmaxOp("softmax", x, false);
}

/** log softmax over the last axis. */
export function logSoftmax(x: Tensor): Tensor {
  return softmaxOp("logSoftmax", x, true);
}

const logSumExpKernel: Kernel<RowVariant> = defineKernel({
  name: "logSumExp",
  bindings: (v: RowVariant) => ({ x: `read ${rowElement(v)}` as const, out: `write ${v.dtype}` as const }),
  params: { rows: "u32", width: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  var m = T(-3.4028234e38);
  for (var i = lane; i < pieces; i += WIDTH) { m = max(m, T(x[first + i])); }
  let top = row_max(fold_max(m), lane);
  var s = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { s += exp(T(x[first + i]) - top); }
  let total = row_sum(fold_sum(s), lane);
  if (lane == 0u) { out[row] = ${v.dtype}(top + log(total)); }`,
)}`,
});

const logSumExpBackwardKernel: Kernel<RowVariant> = defineKernel({
  name: "logSumExpBackward",
  bindings: (v: RowVariant) => ({
    x: `read ${rowElement(v)}` as const,
    lse: `read ${v.dtype}` as const,
    grad: `read ${v.dtype}` as const,
    out: `write ${rowElement(v)}` as const,
  }),
  params: { rows: "u32", width: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  let shift = f32(lse[row]);
  let g = f32(grad[row]);
  for (var i = lane; i < pieces; i += WIDTH) { out[first + i] = ${rowElement(v)}(exp(T(x[first + i]) - shift) * g); }`,
)}`,
});

/** log sum_j e^{x_j} over the last axis, which is dropped. */
export function logSumExp(x: Tensor): Tensor {
  const width = x.shape.at(-1) ?? 0;
  if (width === 0)
    throw new ShapeError("logSumExp", `x has shape ${showShape(x.shape)}; its last axis must not be empty`);
  if (!isFloat(x.dtype)) throw new DTypeError("logSumExp", `x is ${x.dtype}; it must be f32 or f16`);
  const rows = x.size / width;
  const call = { variant: rowVariant(x, width), params: { rows, width }, workgroups: grid1d(rows) };
  return applyOp({
    name: "logSumExp",
    inputs: [x],
    forward: () => {
      const out = x.gpu.empty(x.shape.slice(0, -1), x.dtype);
      x.gpu.run(logSumExpKernel, { ...call, bindings: { x, out } });
      return { outputs: [out] };
    },
    backward: ({ grads, outputs }) => {
      const out = x.gpu.empty(x.shape, x.dtype);
      x.gpu.run(logSumExpBackwardKernel, {
        ...call,
        bindings: { x, lse: outputs[0]!, grad: grads[0]!, out },
      });
      return [out];
    },
  })[0]!;
}
