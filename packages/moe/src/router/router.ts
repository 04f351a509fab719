import {
  add,
  boolean,
  ConfigError,
  e,
  elementwise,
  expectInteger,
  expectNumber,
  expectShape,
  expectTensor,
  expectTensors,
  integer,
  linear,
  mul,
  number,
  oneOf,
  schema,
  softmax,
  sum,
  takeAlongLast,
  tensor,
  topk,
  type Config,
  type Tensor,
} from "@x/kernels";
import { normalizedScores, SCORE_FUNCTIONS, scoresOf } from "./scores.js";

const OPTIONS = schema("router", {
  topK: integer("Experts of a token.", { min: 1 }),
  scoreFunction: oneOf("Scores of the experts: over all of them, or each by itself.", SCORE_FUNCTIONS, {
    default: "softmax",
  }),
  order: oneOf(
    "Weights are the largest scores, or the softmax of the largest logits.",
    ["softmaxThenTopk", "topkThenSoftmax"],
    { default: "softmaxThenTopk" },
  ),
  renormalize: boolean('Divide the weights by their sum ("softmaxThenTopk").', { default: false }),
  renormEps: number("Added to that sum.", { min: 0, default: 0 }),
  noise: tensor("Standard normal numbers [..., experts]: noisy top-k (training).", { optional: true }),
  wNoise: tensor("[experts, dim]; with `noise`.", { optional: true }),
  jitter: tensor("Numbers around 1, [..., dim], that multiply x (training).", { optional: true }),
  bias: tensor("[experts]: added to the logits.", { optional: true }),
});
export type RouterOptions = Config<typeof OPTIONS>;

export interface RouterResult {
  /** [..., experts] */
  readonly logits: Tensor;
  readonly probs: Tensor;
  /** [..., topK] */
  readonly weights: Tensor;
  /** i32 [..., topK], the best first. */
  readonly indices: Tensor;
}

const noisy = elementwise("noisyTopk", ["logits", "noise", "scale"], (logits, noise, scale) =>
  e.add(logits, e.mul(noise, e.softplus(scale))),
);

const share = elementwise("renormalizedWeight", ["weight", "total"], (weight, total) =>
  e.div(weight, e.select(e.gt(e.abs(total), 0), total, 1)),
);

/** Weights [..., k] divided by (their sum + eps); a row whose sum and eps are 0 stays as it is. @throws ConfigError */
export function renormalizeWeights(weights: Tensor, eps: number): Tensor {
  expectTensor("renormalizeWeights", "weights", weights);
  expectNumber("renormalizeWeights", "eps", eps, 0);
  return weights.gpu.scope(() => share(weights, add(sum(weights, { axes: -1, keepDims: true }), eps)));
}

/**
 * Top-k router: logits = x wRouter^T (+ bias); the k best experts of each token and their weights. Indices are
 * constants for the gradient; ties go to the lower index.
 *
 * x [..., dim], wRouter [experts, dim]. Shazeer et al. 2017, arXiv:1701.06538, equations 2-5; Fedus et al. 2021,
 * arXiv:2101.03961; Mixtral, arXiv:2401.04088, section 2.1.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function router(x: Tensor, wRouter: Tensor, options: RouterOptions): RouterResult {
  const who = OPTIONS.name;
  expectTensors(who, { x, wRouter });
  const { topK, scoreFunction, order, renormalize, renormEps, noise, wNoise, jitter, bias } =
    OPTIONS.read(options);
  const experts = wRouter.shape[0] ?? 0;
  if ((noise === undefined) !== (wNoise === undefined))
    throw new ConfigError(who, "noise and wNoise must be given together");
  const dim = x.shape.at(-1) ?? 0;
  expectShape(who, "wRouter", wRouter, [experts, dim]);
  expectInteger(who, "topK", topK, 1, experts);
  if (bias) expectShape(who, "bias", bias, [experts]);
  if (noise) expectShape(who, "noise", noise, [...x.shape.slice(0, -1), experts]);
  if (wNoise) expectShape(who, "wNoise", wNoise, [experts, dim]);
  if (jitter) expectShape(who, "jitter", jitter, x.shape);
  return x.gpu.scope(() => {
    const source = jitter ? mul(x, jitter) : x;
    let logits = linear(source, wRouter, bias);
    if (noise && wNoise) logits = noisy(logits, noise, linear(source, wNoise));
    const probs = scoresOf(logits, scoreFunction);
    // By the logits, whose order is that of the scores where those round to 1 or 0.
    const { values, indices } = topk(logits, topK);
    if (order === "topkThenSoftmax") return { logits, probs, weights: softmax(values), indices };
    if (renormalize && renormEps === 0)
      return { logits, probs, weights: normalizedScores(values, scoreFunction), indices };
    const best = takeAlongLast(probs, indices);
    return { logits, probs, weights: renormalize ? renormalizeWeights(best, renormEps) : best, indices };
  });
}
