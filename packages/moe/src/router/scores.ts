import { e, elementwise, sigmoid, softmax, type Expr, type Tensor } from "@x/kernels";

/** How logits become scores: over all experts, or each by itself; sqrtSoftplus is sqrt(log(1 + e^x)). */
export type ScoreFunction = (typeof SCORE_FUNCTIONS)[number];
/** Names of the score functions. */
export const SCORE_FUNCTIONS = ["softmax", "sigmoid", "sqrtSoftplus"] as const;

/** Logits below it have softplus(x) = e^x in float32, and roots that are taken of e^x before it underflows. */
const FAR = -15;

const sqrtSoftplus = elementwise("sqrtSoftplus", ["x"], (x) =>
  e.select(e.lt(x, FAR), e.exp(e.mul(x, 0.5)), e.sqrt(e.softplus(x))),
);
const logSigmoid = (x: Expr): Expr => e.neg(e.softplus(e.neg(x)));
const logSqrtSoftplus = (x: Expr): Expr => e.mul(0.5, e.select(e.lt(x, FAR), x, e.log(e.softplus(x))));
const logScores = {
  sigmoid: elementwise("logSigmoid", ["x"], logSigmoid),
  sqrtSoftplus: elementwise("logSqrtSoftplus", ["x"], logSqrtSoftplus),
};

/** Scores of logits [..., experts]; their order is that of the logits. */
export function scoresOf(logits: Tensor, scoreFunction: ScoreFunction): Tensor {
  return { softmax, sigmoid, sqrtSoftplus }[scoreFunction](logits);
}

/**
 * Scores of logits [..., k] divided by their sum, from the logits: exp(log score - log sum), so that scores which
 * round to 0 keep their shares.
 */
export function normalizedScores(logits: Tensor, scoreFunction: ScoreFunction): Tensor {
  return softmax(scoreFunction === "softmax" ? logits : logScores[scoreFunction](logits));
}
