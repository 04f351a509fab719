import { DTypeError, ShapeError } from "../../base/errors.js";
import { defineKernel, grid1d } from "../../kernel/kernel.js";
import type { Tensor } from "../../tensor/tensor.js";
import { showShape } from "../../base/validate.js";
import { rowElement, rowMain, rowPrelude, rowTop, rowVariant, type RowVariant } from "../rows.js";

/** What a loss over rows of logits is computed with. */
export interface LossSettings {
  readonly ignoreIndex: number;
  readonly reduction: "mean" | "sum" | "none";
  readonly labelSmoothing: number;
  readonly zLoss: number;
}

const rowParams = { rows: "u32", width: "u32", ignore: "i32", smoothing: "f32", z: "f32" } as const;

/**
 * Per row: the loss, and the two parts of log Z: the maximum of the logits and log sum e^{x - max}. Kept apart they lose
 * no precision where logits are large: x - log Z is (x - max) - log sum. A target outside the vocabulary (and not ignored)
 * gives NaN.
 */
const lossKernel = defineKernel({
  name: "crossEntropy",
  bindings: (v: RowVariant) => ({
    x: `read ${rowElement(v)}`,
    labels: "read i32",
    loss: "write f32",
    log_z: "write vec2<f32>",
  }),
  params: { ...rowParams, nan: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  let label = labels[row];
  ${rowTop}
  var s = T(0.0);
  var below = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) {
    let y = T(x[first + i]) - top;
    s += exp(y);
    // Divided first: a sum of masked logits would overflow.
    below += y / f32(params.width);
  }
  let log_sum = log(row_sum(fold_sum(s), lane));
  let mean = row_sum(fold_sum(below), lane);
  if (lane == 0u) {
    log_z[row] = vec2f(top, log_sum);
    var value = 0.0;
    if (label != params.ignore) {
      if (label < 0 || u32(label) >= params.width) {
        value = bitcast<f32>(params.nan);
      } else {
        let at = u32(label);
        let own = f32(${v.vec ? "x[first + at / 4u][at % 4u]" : "x[first + at]"}) - top;
        // What does not count is not multiplied by 0, since it may be infinite.
        if (params.smoothing < 1.0) { value += (1.0 - params.smoothing) * (log_sum - own); }
        if (params.smoothing > 0.0) { value += params.smoothing * (log_sum - mean); }
        if (params.z > 0.0) { value += params.z * (top + log_sum) * (top + log_sum); }
      }
    }
    loss[row] = value;
  }`,
)}`,
});

export interface GradVariant extends RowVariant {
  /** The gradient replaces the logits. */
  readonly inPlace: boolean;
  /** One upstream gradient for all rows. */
  readonly shared: boolean;
}

export const gradKernel = defineKernel({
  name: "crossEntropyBackward",
  bindings: (v: GradVariant) => ({
    x: `${v.inPlace ? "read_write" : "read"} ${rowElement(v)}`,
    labels: "read i32",
    log_z: "read vec2<f32>",
    grad: "read f32",
    ...(v.inPlace ? {} : { out: `write ${rowElement(v)}` }),
  }),
  params: rowParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  let label = labels[row];
  let z = log_z[row];
  let ignored = label == params.ignore;
  let g = select(grad[${v.shared ? "0" : "row"}], 0.0, ignored);
  var factor = g;
  if (params.z > 0.0) { factor *= 1.0 + 2.0 * params.z * (z.x + z.y); }
  let even = g * params.smoothing / f32(params.width);
  let own = g * (1.0 - params.smoothing);
  for (var i = lane; i < pieces; i += WIDTH) {
    var d = factor * exp((T(x[first + i]) - z.x) - z.y) - even;
    ${v.vec ? "if (i == u32(label) / 4u && label >= 0) { d[u32(label) % 4u] -= own; }" : "if (i32(i) == label) { d -= own; }"}
    ${v.inPlace ? "x" : "out"}[first + i] = ${rowElement(v)}(select(d, T(0.0), ignored));
  }`,
)}`,
});

const countKernel = defineKernel({
  name: "countTargets",
  bindings: { labels: "read i32", out: "write f32" },
  params: { count: "u32", ignore: "i32" },
  wgsl: () => /* wgsl */ `
var<workgroup> partial: array<u32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
  var n = 0u;
  for (var i = lane; i < params.count; i += 64u) { n += select(0u, 1u, labels[i] != params.ignore); }
  partial[lane] = n;
  workgroupBarrier();
  if (lane == 0u) {
    var total = 0u;
    for (var i = 0u; i < 64u; i++) { total += partial[i]; }
    out[0] = f32(max(total, 1u));
  }
}`,
});

export const uniforms = (
  s: LossSettings,
  rows: number,
  width: number,
): Record<keyof typeof rowParams, number> => ({
  rows,
  width,
  ignore: s.ignoreIndex,
  smoothing: s.labelSmoothing,
  z: s.zLoss,
});

export function runLoss(logits: Tensor, targets: Tensor, s: LossSettings): { loss: Tensor; logZ: Tensor } {
  const width = logits.shape.at(-1)!;
  const rows = logits.size / width;
  const loss = logits.gpu.empty(targets.shape);
  const logZ = logits.gpu.empty([rows, 2]);
  logits.gpu.run(lossKernel, {
    variant: rowVariant(logits, width),
    bindings: { x: logits, labels: targets, loss, log_z: logZ },
    params: { ...uniforms(s, rows, width), nan: 0x7fc00000 },
    workgroups: grid1d(rows),
  });
  return { loss, logZ };
}

/** Number of targets that count, at least 1, as a scalar on the GPU. */
export function countTargets(targets: Tensor, ignoreIndex: number): Tensor {
  const out = targets.gpu.empty([]);
  targets.gpu.run(countKernel, {
    bindings: { labels: targets, out },
    params: { count: targets.size, ignore: ignoreIndex },
  });
  return out;
}

export function expectTargets(who: string, leading: readonly number[], targets: Tensor): void {
  if (targets.dtype !== "i32") throw new DTypeError(who, `targets are ${targets.dtype}; they must be i32`);
  if (targets.rank !== leading.length || targets.shape.some((n, i) => n !== leading[i])) {
    throw new ShapeError(
      who,
      `targets have shape ${showShape(targets.shape)}; it must be ${showShape(leading)}`,
    );
  }
}
