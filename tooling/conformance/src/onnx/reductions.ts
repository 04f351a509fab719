import {
  abs,
  argmax,
  argmin,
  cast,
  cumsum,
  div,
  equal,
  logSoftmax,
  logSumExp,
  softmax,
  sqrt,
  square,
  sum,
  topk,
  transpose,
  where,
  type Tensor,
} from "@x/kernels";
import { NotExpressible, type OnnxMapping, type OnnxMappings } from "./node.js";

const extreme =
  (op: typeof argmax): OnnxMapping =>
  (node) => [
    op(node.need(0), {
      axis: node.number("axis", 0),
      keepDims: node.number("keepdims", 1) !== 0,
      ties: node.flag("select_last_index") ? "last" : "first",
    }),
  ];

/** Several axes are brought together at the end, and reduced as one. */
function logSumExpOver(x: Tensor, axes: readonly number[], keepDims: boolean): Tensor {
  const chosen = axes.map((axis) => (axis < 0 ? axis + x.rank : axis));
  const others = [...x.shape.keys()].filter((i) => !chosen.includes(i));
  const kept = others.map((i) => x.shape[i]!);
  const shape = keepDims ? x.shape.map((n, i) => (chosen.includes(i) ? 1 : n)) : kept;
  const width = chosen.reduce((n, i) => n * x.shape[i]!, 1);
  const rows = kept.reduce((a, b) => a * b, 1);
  // The sum of nothing is 0, and its logarithm -Infinity.
  if (width === 0) return x.gpu.full(shape, -Infinity);
  return logSumExp(transpose(x, [...others, ...chosen]).reshape([rows, width])).reshape(shape);
}

/** Operators along axes. */
export const reductionOperators: OnnxMappings = {
  ArgMax: extreme(argmax),
  ArgMin: extreme(argmin),
  Softmax: (node) => [softmax(node.need(0), { axis: node.number("axis", -1) })],
  LogSoftmax: (node) => [logSoftmax(node.need(0), { axis: node.number("axis", -1) })],
  CumSum: (node) => {
    const x = node.need(0);
    const out = cumsum(cast(x, "f32"), {
      axis: node.host(1)![0]!,
      exclusive: node.flag("exclusive"),
      reverse: node.flag("reverse"),
    });
    return [cast(out, x.dtype)];
  },
  LpNormalization: (node) => {
    const x = node.need(0);
    const along = { axes: node.number("axis", -1), keepDims: true };
    const p = node.number("p", 2);
    if (p !== 1 && p !== 2) throw new NotExpressible(`the norm of order ${String(p)}`);
    const norm = p === 1 ? sum(abs(x), along) : sqrt(sum(square(x), along));
    // A row of zeros stays one.
    return [div(x, where(equal(norm, 0), 1, norm))];
  },
  ReduceLogSumExp: (node) => {
    const x = node.need(0);
    const axes = node.host(1) ?? node.list("axes") ?? [];
    const keepDims = node.number("keepdims", 1) !== 0;
    const whole = axes.length === 0;
    if (whole && node.flag("noop_with_empty_axes")) return [x];
    return [logSumExpOver(x, whole ? [...x.shape.keys()] : axes, keepDims)];
  },
  TopK: (node) => {
    node.flag("sorted");
    const { values, indices } = topk(node.need(0), node.host(1)![0]!, {
      axis: node.number("axis", -1),
      largest: node.number("largest", 1) !== 0,
    });
    return [values, indices];
  },
};
