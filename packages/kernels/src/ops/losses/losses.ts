import { flatMain } from "../../kernel/flat_grid.js";
import { ConfigError, ShapeError } from "../../base/errors.js";
import { defineKernel, grid1d } from "../../kernel/kernel.js";
import { applyOp } from "../../tensor/tape.js";
import type { Tensor } from "../../tensor/tensor.js";
import {
  checkConfig,
  expectDType,
  expectFloat,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectShape,
  expectTensors,
  normalizeAxis,
  showShape,
} from "../../base/validate.js";
import { div, mul, where } from "../arithmetic.js";
import {
  countTargets,
  expectTargets,
  gradKernel,
  runLoss,
  uniforms,
  type LossSettings,
} from "./loss_rows.js";
import { rowVariant } from "../rows.js";
import { alongAxis } from "../shape.js";
import { sum } from "../reductions.js";

export interface CrossEntropyOptions {
  /** Targets of this value do not count; default -100. */
  readonly ignoreIndex?: number;
  /** Mean over the targets that count (0 if none does), their sum, or one loss per target. */
  readonly reduction?: "mean" | "sum" | "none";
  /** Axis of the classes in `logits`; default the last. */
  readonly axis?: number;
  /**
   * f32 [vocab]: the loss of a target counts as often as its class says, and the mean divides by the weights of the
   * targets (0 if they sum to 0). Not with label smoothing. It gets no gradient.
   */
  readonly classWeights?: Tensor | undefined;
  /** Mass spread evenly over the vocabulary: (1 - s) nll + s mean_v(-log p_v). */
  readonly labelSmoothing?: number;
  /** Adds z log(Z)^2, which keeps the normaliser near 1 (PaLM, section 5). */
  readonly zLoss?: number;
}

export function lossSettings(who: string, options: CrossEntropyOptions, ...more: string[]): LossSettings {
  checkConfig(who, options, ["ignoreIndex", "reduction", "labelSmoothing", "zLoss", ...more]);
  const { ignoreIndex = -100, reduction = "mean", labelSmoothing = 0, zLoss = 0 } = options;
  expectOneOf(who, "reduction", reduction, ["mean", "sum", "none"]);
  expectNumber(who, "labelSmoothing", labelSmoothing, 0, 1);
  expectNumber(who, "zLoss", zLoss, 0);
  expectInteger(who, "ignoreIndex", ignoreIndex, -(2 ** 31), 2 ** 31 - 1);
  return { ignoreIndex, reduction, labelSmoothing, zLoss };
}

const weightsKernel = defineKernel({
  name: "targetWeights",
  bindings: { labels: "read i32", weights: "read f32", out: "write f32" },
  params: { count: "u32", width: "u32", ignore: "i32", nan: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let label = labels[i];
  var weight = 0.0;
  if (label != params.ignore) {
    if (label < 0 || u32(label) >= params.width) { weight = bitcast<f32>(params.nan); } else { weight = weights[label]; }
  }
  out[i] = weight;
}`,
});

/** Weight of each target: that of its class, 0 for one that is ignored, NaN outside the classes. */
function targetWeights(targets: Tensor, weights: Tensor, ignoreIndex: number): Tensor {
  const out = targets.gpu.empty(targets.shape);
  targets.gpu.run(weightsKernel, {
    bindings: { labels: targets, weights, out },
    params: { count: targets.size, width: weights.size, ignore: ignoreIndex, nan: 0x7fc00000 },
    workgroups: grid1d(Math.ceil(targets.size / 64)),
  });
  return out;
}

/** The reduction of the targets' losses that the settings ask for. */
function reduced(rows: Tensor, targets: Tensor, s: LossSettings, classWeights: Tensor | undefined): Tensor {
  if (!classWeights) {
    if (s.reduction === "none") return rows;
    const total = sum(rows);
    return s.reduction === "sum" ? total : div(total, countTargets(targets, s.ignoreIndex));
  }
  const weights = targetWeights(targets, classWeights, s.ignoreIndex);
  // A class of weight 0 does not count, even where its loss is infinite.
  const weighted = where(weights, mul(rows, weights), 0);
  if (s.reduction === "none") return weighted;
  if (s.reduction === "sum") return sum(weighted);
  const all = sum(weights);
  return div(sum(weighted), where(all, all, 1));
}

interface Classes {
  readonly axis: number;
  readonly width: number;
}

/** Check the arguments that the losses over classes share. */
function expectClasses(
  who: string,
  scores: Tensor,
  targets: Tensor,
  s: LossSettings,
  axis: number,
  classWeights: Tensor | undefined,
): Classes {
  expectFloat(who, "logits", scores);
  if (scores.rank === 0 || scores.shape[normalizeAxis(who, axis, scores.rank)] === 0)
    throw new ShapeError(who, `logits have shape ${showShape(scores.shape)}; it must be [..., vocab]`);
  const along = normalizeAxis(who, axis, scores.rank);
  const width = scores.shape[along]!;
  expectTargets(
    who,
    scores.shape.filter((_, i) => i !== along),
    targets,
  );
  if (classWeights !== undefined) {
    expectDType(who, "classWeights", classWeights, "f32");
    expectShape(who, "classWeights", classWeights, [width]);
    if (s.labelSmoothing > 0)
      throw new ConfigError(who, `labelSmoothing is ${s.labelSmoothing}; with classWeights it must be 0`);
  }
  return { axis: along, width };
}

/**
 * -log softmax(logits)[target], in one pass over the logits; the probabilities are not kept.
 *
 * logits [..., vocab] (f32 or f16; the classes may lie on another `axis`), targets i32 [...]; a scalar, or [...] with
 * `reduction: "none"`. A logit of -Infinity is a class that cannot be: it has probability 0 and no gradient. A target
 * outside 0..vocab-1 that is not ignored gives NaN.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const who = "crossEntropy";
  expectTensors(who, { logits, targets });
  const s = lossSettings(who, options, "axis", "classWeights");
  const { classWeights } = options;
  const { axis } = expectClasses(
    who,
    logits,
    targets,
    s,
    options.axis === undefined ? -1 : options.axis,
    classWeights,
  );
  return logits.gpu.scope(() => {
    const rows = alongAxis(who, logits, axis, (x) => [rowLosses(x, targets, s)])[0]!;
    return reduced(rows, targets, s, classWeights);
  });
}

/** The loss of each target; the classes lie on the last axis. */
function rowLosses(logits: Tensor, targets: Tensor, s: LossSettings): Tensor {
  const { gpu } = logits;
  const width = logits.shape.at(-1)!;
  return applyOp({
    name: "crossEntropy",
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
}

export type NegativeLogLikelihoodOptions = Omit<CrossEntropyOptions, "labelSmoothing" | "zLoss">;

const pickKernel = defineKernel({
  name: "negativeLogLikelihood",
  bindings: (v: { dtype: string; backward: boolean }) => ({
    x: `read ${v.backward ? "f32" : v.dtype}` as const,
    labels: "read i32",
    out: v.backward ? `read_write ${v.dtype}` : "write f32",
  }),
  params: { count: "u32", width: "u32", ignore: "i32", nan: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let label = labels[i];
  let inside = label >= 0 && u32(label) < params.width;
  ${
    v.backward
      ? `if (inside && label != params.ignore) { out[i * params.width + u32(label)] = ${v.dtype}(-x[i]); }`
      : `var value = 0.0;
  if (label != params.ignore) {
    if (inside) { value = -f32(x[i * params.width + u32(label)]); } else { value = bitcast<f32>(params.nan); }
  }
  out[i] = value;`
  }
}`,
});

function pickedRows(logProbs: Tensor, targets: Tensor, s: LossSettings): Tensor {
  const { gpu, dtype } = logProbs;
  const count = targets.size;
  const call = {
    params: { count, width: logProbs.shape.at(-1)!, ignore: s.ignoreIndex, nan: 0x7fc00000 },
    workgroups: grid1d(Math.ceil(count / 64)),
  };
  return applyOp({
    name: "negativeLogLikelihood",
    inputs: [logProbs, targets],
    forward: () => {
      const out = gpu.empty(targets.shape);
      gpu.run(pickKernel, {
        ...call,
        variant: { dtype, backward: false },
        bindings: { x: logProbs, labels: targets, out },
      });
      return { outputs: [out] };
    },
    backward: ({ grads }) => {
      const out = gpu.zeros(logProbs.shape, dtype);
      gpu.run(pickKernel, {
        ...call,
        variant: { dtype, backward: true },
        bindings: { x: grads[0]!, labels: targets, out },
      });
      return [out, undefined];
    },
  })[0]!;
}

/**
 * -logProbs[target]: the cross-entropy of log probabilities, such as those of `logSoftmax`.
 *
 * logProbs [..., vocab] (f32 or f16; the classes may lie on another `axis`), targets i32 [...]; a scalar, or [...] with
 * `reduction: "none"`. Targets, weights and reductions are those of `crossEntropy`.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function negativeLogLikelihood(
  logProbs: Tensor,
  targets: Tensor,
  options: NegativeLogLikelihoodOptions = {},
): Tensor {
  const who = "negativeLogLikelihood";
  expectTensors(who, { logProbs, targets });
  checkConfig(who, options, ["axis", "classWeights", "ignoreIndex", "reduction"]);
  const s = lossSettings(who, options, "axis", "classWeights");
  const { classWeights } = options;
  const { axis } = expectClasses(
    who,
    logProbs,
    targets,
    s,
    options.axis === undefined ? -1 : options.axis,
    classWeights,
  );
  return logProbs.gpu.scope(() => {
    const rows = alongAxis(who, logProbs, axis, (x) => [pickedRows(x, targets, s)])[0]!;
    return reduced(rows, targets, s, classWeights);
  });
}
