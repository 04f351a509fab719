import { ConfigError, DTypeError, ShapeError } from "../errors.js";
import { isFloat } from "../dtype.js";
import { defineKernel, grid1d, type Kernel } from "../kernel.js";
import { sumMiddle } from "../reduce.js";
import { applyOp, isTracked } from "../tape.js";
import type { Tensor } from "../tensor.js";
import {
  checkConfig,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectTensors,
  showShape,
} from "../validate.js";
import { add, div, mul } from "./arithmetic.js";
import { matmul } from "./matmul/matmul.js";
import { rowElement, rowMain, rowPrelude, rowVariant, type RowVariant } from "./rows.js";
import { slice } from "./shape.js";
import { sum } from "./reductions.js";

export interface CrossEntropyOptions {
  /** Targets of this value do not count; default -100. */
  readonly ignoreIndex?: number;
  /** Mean over the targets that count (0 if none does), their sum, or one loss per target. */
  readonly reduction?: "mean" | "sum" | "none";
  /** Mass spread evenly over the vocabulary: (1 - s) nll + s mean_v(-log p_v). */
  readonly labelSmoothing?: number;
  /** Adds z log(Z)^2, which keeps the normaliser near 1 (PaLM, section 5). */
  readonly zLoss?: number;
}

const rowParams = { rows: "u32", width: "u32", ignore: "i32", smoothing: "f32", z: "f32" } as const;

/** Per row: the loss and log Z. A target outside the vocabulary (and not ignored) gives NaN. */
const lossKernel: Kernel<RowVariant> = defineKernel({
  name: "crossEntropy",
  bindings: (v: RowVariant) => ({
    x: `read ${rowElement(v)}` as const,
    labels: "read i32" as const,
    loss: "write f32" as const,
    log_z: "write f32" as const,
  }),
  params: { ...rowParams, nan: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  let label = labels[row];
  var m = T(-3.4028234e38);
  var total_x = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { let y = T(x[first + i]); m = max(m, y); total_x += y; }
  let top = row_max(fold_max(m), lane);
  var s = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { s += exp(T(x[first + i]) - top); }
  let lse = top + log(row_sum(fold_sum(s), lane));
  let mean_x = row_sum(fold_sum(total_x), lane) / f32(params.width);
  if (lane == 0u) {
    log_z[row] = lse;
    var value = 0.0;
    if (label != params.ignore) {
      if (label < 0 || u32(label) >= params.width) {
        value = bitcast<f32>(params.nan);
      } else {
        let at = u32(label);
        let own = f32(${v.vec ? "x[first + at / 4u][at % 4u]" : "x[first + at]"});
        value = lse - (1.0 - params.smoothing) * own - params.smoothing * mean_x + params.z * lse * lse;
      }
    }
    loss[row] = value;
  }`,
)}`,
});

interface GradVariant extends RowVariant {
  /** The gradient replaces the logits. */
  readonly inPlace: boolean;
  /** One upstream gradient for all rows. */
  readonly shared: boolean;
}

const gradKernel: Kernel<GradVariant> = defineKernel({
  name: "crossEntropyBackward",
  bindings: (v: GradVariant) => ({
    x: `${v.inPlace ? "read_write" : "read"} ${rowElement(v)}` as const,
    labels: "read i32" as const,
    log_z: "read f32" as const,
    grad: "read f32" as const,
    ...(v.inPlace ? {} : { out: `write ${rowElement(v)}` as const }),
  }),
  params: rowParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  let label = labels[row];
  let lse = log_z[row];
  let g = select(grad[${v.shared ? "0" : "row"}], 0.0, label == params.ignore);
  let factor = g * (1.0 + 2.0 * params.z * lse);
  let even = g * params.smoothing / f32(params.width);
  let own = g * (1.0 - params.smoothing);
  for (var i = lane; i < pieces; i += WIDTH) {
    var d = factor * exp(T(x[first + i]) - lse) - even;
    ${v.vec ? "if (i == u32(label) / 4u && label >= 0) { d[u32(label) % 4u] -= own; }" : "if (i32(i) == label) { d -= own; }"}
    ${v.inPlace ? "x" : "out"}[first + i] = ${rowElement(v)}(d);
  }`,
)}`,
});

const countKernel: Kernel<undefined> = defineKernel({
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

interface Settings {
  readonly ignoreIndex: number;
  readonly reduction: "mean" | "sum" | "none";
  readonly labelSmoothing: number;
  readonly zLoss: number;
}

function settings(who: string, options: CrossEntropyOptions, ...more: string[]): Settings {
  checkConfig(who, options, ["ignoreIndex", "reduction", "labelSmoothing", "zLoss", ...more]);
  const { ignoreIndex = -100, reduction = "mean", labelSmoothing = 0, zLoss = 0 } = options;
  expectOneOf(who, "reduction", reduction, ["mean", "sum", "none"]);
  expectNumber(who, "labelSmoothing", labelSmoothing, 0, 1);
  expectNumber(who, "zLoss", zLoss, 0);
  expectInteger(who, "ignoreIndex", ignoreIndex, -(2 ** 31), 2 ** 31 - 1);
  return { ignoreIndex, reduction, labelSmoothing, zLoss };
}

const uniforms = (s: Settings, rows: number, width: number): Record<string, number> => ({
  rows,
  width,
  ignore: s.ignoreIndex,
  smoothing: s.labelSmoothing,
  z: s.zLoss,
});

function runLoss(logits: Tensor, targets: Tensor, s: Settings): { loss: Tensor; logZ: Tensor } {
  const width = logits.shape.at(-1)!;
  const rows = logits.size / width;
  const loss = logits.gpu.empty(targets.shape);
  const logZ = logits.gpu.empty(targets.shape);
  logits.gpu.run(lossKernel, {
    variant: rowVariant(logits, width),
    bindings: { x: logits, labels: targets, loss, log_z: logZ },
    params: { ...uniforms(s, rows, width), nan: 0x7fc00000 },
    workgroups: grid1d(rows),
  });
  return { loss, logZ };
}

/** Number of targets that count, at least 1, as a scalar on the GPU. */
function countTargets(targets: Tensor, ignoreIndex: number): Tensor {
  const out = targets.gpu.empty([]);
  targets.gpu.run(countKernel, {
    bindings: { labels: targets, out },
    params: { count: targets.size, ignore: ignoreIndex },
  });
  return out;
}

function expectTargets(who: string, leading: readonly number[], targets: Tensor): void {
  if (targets.dtype !== "i32") throw new DTypeError(who, `targets are ${targets.dtype}; they must be i32`);
  if (targets.rank !== leading.length || targets.shape.some((n, i) => n !== leading[i])) {
    throw new ShapeError(
      who,
      `targets have shape ${showShape(targets.shape)}; it must be ${showShape(leading)}`,
    );
  }
}

/**
 * -log softmax(logits)[target], in one pass over the logits; the probabilities are not kept.
 *
 * logits [..., vocab] (f32 or f16), targets i32 [...]; a scalar, or [...] with `reduction: "none"`.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const who = "crossEntropy";
  expectTensors(who, { logits, targets });
  const s = settings(who, options);
  if (!isFloat(logits.dtype))
    throw new DTypeError(who, `logits are ${logits.dtype}; they must be f32 or f16`);
  const width = logits.shape.at(-1);
  if (width === undefined || width === 0)
    throw new ShapeError(who, `logits have shape ${showShape(logits.shape)}; it must be [..., vocab]`);
  expectTargets(who, logits.shape.slice(0, -1), targets);
  const { gpu } = logits;
  return gpu.scope(() => {
    const rows = applyOp({
      name: who,
      inputs: [logits, targets],
      forward: () => {
        const { loss, logZ } = runLoss(logits, targets, s);
        return { outputs: [loss], saved: [logZ] };
      },
      backward: ({ grads, saved }) => {
        const out = gpu.empty(logits.shape, logits.dtype);
        const count = targets.size;
        gpu.run(gradKernel, {
          variant: { ...rowVariant(logits, width), inPlace: false, shared: false },
          bindings: { x: logits, labels: targets, log_z: saved[0]!, grad: grads[0]!, out },
          params: uniforms(s, count, width),
          workgroups: grid1d(count),
        });
        return [out, undefined];
      },
    })[0]!;
    if (s.reduction === "none") return rows;
    const total = sum(rows);
    return s.reduction === "sum" ? total : div(total, countTargets(targets, s.ignoreIndex));
  });
}

export interface LinearCrossEntropyOptions extends CrossEntropyOptions {
  readonly reduction?: "mean" | "sum";
  /** Largest piece of logits that exists at a time, in bytes; default 16 MiB. */
  readonly chunkBytes?: number;
}

/**
 * crossEntropy(x weight^T, targets) for a large vocabulary: logits exist for a chunk of rows at a time, and their
 * gradient is taken while they do, so neither logits nor probabilities of the whole batch are ever kept.
 *
 * x [..., dim] f32, weight [vocab, dim] f32, targets i32 [...]; a scalar.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const who = "linearCrossEntropy";
  expectTensors(who, { x, weight, targets });
  const s = settings(who, options, "chunkBytes");
  if (s.reduction === "none")
    throw new ConfigError(
      who,
      'reduction is "none"; it must be "mean" or "sum" (crossEntropy gives single losses)',
    );
  const { chunkBytes = 16 * 2 ** 20 } = options;
  expectNumber(who, "chunkBytes", chunkBytes, 1);
  if (x.dtype !== "f32" || weight.dtype !== "f32")
    throw new DTypeError(who, `x is ${x.dtype}, weight ${weight.dtype}; both must be f32`);
  if (weight.rank !== 2 || weight.size === 0)
    throw new ShapeError(who, `weight has shape ${showShape(weight.shape)}; it must be [vocab, dim]`);
  const [vocab, dim] = weight.shape as [number, number];
  if (x.shape.at(-1) !== dim)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; its last axis must be ${dim}`);
  expectTargets(who, x.shape.slice(0, -1), targets);
  const { gpu } = x;
  const rows = targets.size;
  const step = Math.max(4, Math.min(rows, Math.floor(chunkBytes / (4 * vocab) / 4) * 4));
  const wanted = [isTracked([x]), isTracked([weight])] as const;
  return applyOp({
    name: who,
    inputs: [x, weight, targets],
    forward: () => {
      const flat = x.alias([rows, dim]);
      const labels = targets.alias([rows]);
      const scale =
        s.reduction === "mean" ? div(gpu.full([], 1), countTargets(targets, s.ignoreIndex)) : gpu.full([], 1);
      const losses: Tensor[] = [];
      const dx = wanted[0] ? gpu.empty(x.shape) : undefined;
      let dWeight: Tensor | undefined;
      for (let start = 0; start < rows; start += step) {
        const end = Math.min(rows, start + step);
        const range = { axis: 0, start, end };
        const [loss, nextWeight] = gpu.scope(() => {
          const piece = slice(flat, range);
          const own = slice(labels, range);
          const logits = matmul(piece, weight, { transposeB: true });
          const { loss, logZ } = runLoss(logits, own, s);
          const total = sumMiddle(loss, 1, end - start, 1).alias([]);
          if (!wanted[0] && !wanted[1]) return [total, undefined];
          gpu.run(gradKernel, {
            variant: { ...rowVariant(logits, vocab), inPlace: true, shared: true },
            bindings: { x: logits, labels: own, log_z: logZ, grad: scale },
            params: uniforms(s, end - start, vocab),
            workgroups: grid1d(end - start),
          });
          if (dx) gpu.copy(matmul(logits, weight), dx, { toOffset: start * dim });
          return [
            total,
            wanted[1] ? matmul(logits, piece, { transposeA: true, residual: dWeight }) : undefined,
          ];
        });
        losses.push(loss);
        dWeight?.dispose();
        dWeight = nextWeight;
      }
      const total = losses.reduce((a, b) => add(a, b));
      return { outputs: [mul(total, scale)], saved: [dx, dWeight].filter((t) => t !== undefined) };
    },
    backward: ({ grads, saved }) => {
      const [dx, dWeight] = wanted[0] ? [saved[0], saved[1]] : [undefined, saved[0]];
      const times = (t: Tensor | undefined): Tensor | undefined => t && mul(t, grads[0]!);
      return [wanted[0] ? times(dx) : undefined, wanted[1] ? times(dWeight) : undefined, undefined];
    },
  })[0]!;
}
