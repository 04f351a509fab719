import { ShapeError } from "../base/errors.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectBoolean,
  expectFloat,
  expectTensor,
  normalizeAxis,
  showShape,
} from "../base/validate.js";
import { rowElement, rowMain, rowPrelude, rowTop, rowVariant, type RowVariant } from "./rows.js";
import { alongAxis } from "./shape.js";

export interface SoftmaxOptions {
  /** Axis that is normalised; default the last. */
  readonly axis?: number;
}

interface SoftmaxVariant extends RowVariant {
  readonly log: boolean;
}

/** `total`: the sum of e^(x - top) over a row, where top is the row's largest element. */
const rowExponentials = /* wgsl */ `${rowTop}
  var s = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { s += exp(T(x[first + i]) - top); }
  let total = row_sum(fold_sum(s), lane);`;

const softmaxKernel = defineKernel({
  name: "softmax",
  bindings: (v: SoftmaxVariant) => ({
    x: `read ${rowElement(v)}`,
    out: `write ${rowElement(v)}`,
  }),
  params: { rows: "u32", width: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  ${rowExponentials}
  ${v.log ? "let log_total = log(total);" : "let scale = 1.0 / total;"}
  for (var i = lane; i < pieces; i += WIDTH) {
    out[first + i] = ${rowElement(v)}(${v.log ? "(T(x[first + i]) - top) - log_total" : "exp(T(x[first + i]) - top) * scale"});
  }`,
)}`,
});

const softmaxBackwardKernel = defineKernel({
  name: "softmaxBackward",
  bindings: (v: SoftmaxVariant) => ({
    y: `read ${rowElement(v)}`,
    grad: `read ${rowElement(v)}`,
    out: `write ${rowElement(v)}`,
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

/** Check the arguments of an op on one axis, and return that axis. */
function axisOf(who: string, x: Tensor, { axis = -1 }: SoftmaxOptions): number {
  expectFloat(who, "x", x);
  if (x.rank === 0) throw new ShapeError(who, "x is a scalar; it must have at least one axis");
  return normalizeAxis(who, axis, x.rank);
}

function softmaxOp(who: string, x: Tensor, options: SoftmaxOptions, log: boolean): Tensor {
  expectTensor(who, "x", x);
  checkConfig(who, options, ["axis"]);
  return alongAxis(who, x, axisOf(who, x, options), (y) => [softmaxRows(who, y, log)])[0]!;
}

function softmaxRows(who: string, x: Tensor, log: boolean): Tensor {
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

/** softmax(x)_i = e^{x_i} / sum_j e^{x_j} over an axis, the last by default. */
export function softmax(x: Tensor, options: SoftmaxOptions = {}): Tensor {
  return softmaxOp("softmax", x, options, false);
}

/** log softmax(x)_i = (x_i - max x) - log sum_j e^{x_j - max x} over an axis, the last by default. */
export function logSoftmax(x: Tensor, options: SoftmaxOptions = {}): Tensor {
  return softmaxOp("logSoftmax", x, options, true);
}

const logSumExpKernel = defineKernel({
  name: "logSumExp",
  bindings: (v: RowVariant) => ({ x: `read ${rowElement(v)}`, out: `write ${v.dtype}` }),
  params: { rows: "u32", width: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  ${rowExponentials}
  if (lane == 0u) { out[row] = ${v.dtype}(top + log(total)); }`,
)}`,
});

const logSumExpBackwardKernel = defineKernel({
  name: "logSumExpBackward",
  bindings: (v: RowVariant) => ({
    x: `read ${rowElement(v)}`,
    lse: `read ${v.dtype}`,
    grad: `read ${v.dtype}`,
    out: `write ${rowElement(v)}`,
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
  // An infinite result: x - shift would be NaN. The infinite elements take the gradient; none does below all.
  let bits = bitcast<u32>(shift);
  let infinite = (bits & 0x7fffffffu) == 0x7f800000u;
  let sign = select(1.0, 0.0, bits == 0xff800000u);
  for (var i = lane; i < pieces; i += WIDTH) {
    let y = T(x[first + i]);
    let share = select(exp(y - shift), T(sign) * step(T(3.4028234e38), y), infinite);
    out[first + i] = ${rowElement(v)}(share * g);
  }`,
)}`,
});

export interface LogSumExpOptions extends SoftmaxOptions {
  /** Keep the axis with extent one. */
  readonly keepDims?: boolean;
}

/**
 * log sum_j e^{x_j} over an axis, the last by default, which is dropped unless `keepDims`. It is infinite where an
 * element is, and -Infinity where all are.
 */
export function logSumExp(x: Tensor, options: LogSumExpOptions = {}): Tensor {
  const who = "logSumExp";
  expectTensor(who, "x", x);
  checkConfig(who, options, ["axis", "keepDims"]);
  const { keepDims = false } = options;
  expectBoolean(who, "keepDims", keepDims);
  const axis = axisOf(who, x, options);
  if (x.shape[axis] === 0)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; axis ${axis} must not be empty`);
  return x.gpu.scope(() => {
    const out = alongAxis(who, x, axis, (y) => [logSumExpRows(y)])[0]!;
    return keepDims ? out.reshape(x.shape.map((n, i) => (i === axis ? 1 : n))) : out;
  });
}

function logSumExpRows(x: Tensor): Tensor {
  const width = x.shape.at(-1)!;
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
