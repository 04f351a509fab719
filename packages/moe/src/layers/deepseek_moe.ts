import {
  checkConfig,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectShape,
  linear,
  mul,
  sigmoid,
  softmax,
  takeAlongLast,
  type Tensor,
} from "@x/kernels";
import { expectRouter, expectWeights, expertCount, type GatedExperts } from "../experts/expert_weights.js";
import { gated, mixExperts } from "../experts/experts.js";
import { groupLimitedTopk } from "../router/group_limited.js";
import { normalizedScores } from "../router/router.js";

/** The shared experts as one gated layer of width numShared * hidden. */
export interface SharedExperts {
  /** [numShared * hidden, dim] */
  readonly wGate: Tensor;
  readonly wUp: Tensor;
  /** [dim, numShared * hidden] */
  readonly wDown: Tensor;
}

export interface DeepSeekMoeOptions {
  readonly topK: number;
  /** Default "softmax" (V1, V2); "sigmoid" is V3's. */
  readonly scoreFunction?: "softmax" | "sigmoid";
  /** [experts]: added to the scores for choosing only (V3); no gradient. */
  readonly bias?: Tensor | undefined;
  /** Consecutive equal groups of experts, of which the best `topkGroups` remain; default 1. */
  readonly numGroups?: number;
  readonly topkGroups?: number;
  /** Default "max" for softmax, "top2" for sigmoid. */
  readonly groupScore?: "max" | "top2";
  /** Divide the weights by their sum; default for sigmoid only. */
  readonly normTopkProb?: boolean;
  /** Default 1. */
  readonly routedScalingFactor?: number;
}

export interface DeepSeekMoeResult {
  /** In the shape of x. */
  readonly out: Tensor;
  /** [..., experts] */
  readonly logits: Tensor;
  /** Scores of the experts, [..., experts]. */
  readonly probs: Tensor;
  /** i32 [..., topK] */
  readonly indices: Tensor;
  /** [..., topK] */
  readonly weights: Tensor;
}

/**
 * DeepSeekMoE: many fine-grained experts of which each token visits topK, and shared experts that see every token:
 * out = sum_k weights_k expert_k(x) + shared(x). Scores s = softmax or sigmoid of x wRouter^T; the choice is by
 * s + bias within the best groups; weights are s of the chosen, divided by (their sum + 1e-20) with `normTopkProb`,
 * times `routedScalingFactor`.
 *
 * x [..., dim], wRouter [experts, dim]. Dai et al. 2024, arXiv:2401.06066, equations 9-11; V2, arXiv:2405.04434,
 * section 2.2; V3, arXiv:2412.19437, equations 12-16.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function deepseekMoe(
  x: Tensor,
  wRouter: Tensor,
  experts: GatedExperts,
  shared: SharedExperts | undefined,
  options: DeepSeekMoeOptions,
): DeepSeekMoeResult {
  const who = "deepseekMoe";
  checkConfig(who, options, [
    "topK",
    "scoreFunction",
    "bias",
    "numGroups",
    "topkGroups",
    "groupScore",
    "normTopkProb",
    "routedScalingFactor",
  ]);
  const { topK, scoreFunction = "softmax", bias, numGroups = 1, routedScalingFactor = 1 } = options;
  const v3 = scoreFunction === "sigmoid";
  const { topkGroups = numGroups, groupScore = v3 ? "top2" : "max", normTopkProb = v3 } = options;
  expectOneOf(who, "scoreFunction", scoreFunction, ["softmax", "sigmoid"]);
  expectBoolean(who, "normTopkProb", normTopkProb);
  expectNumber(who, "routedScalingFactor", routedScalingFactor);
  const dim = x.shape.at(-1) ?? 0;
  const numExperts = expertCount(who, experts, dim);
  expectRouter(who, x, wRouter, numExperts);
  expectInteger(who, "topK", topK, 1, numExperts);
  if (bias) expectShape(who, "bias", bias, [numExperts]);
  if (shared) expectShared(who, shared, dim);
  const tokens = x.size / dim;
  return x.gpu.scope(() => {
    const rows = x.reshape([tokens, dim]);
    const logits = linear(rows, wRouter);
    const scores = v3 ? sigmoid(logits) : softmax(logits);
    // By the logits, whose order is that of the scores where those round to 1 or 0, unless scores are added to.
    const sums = bias !== undefined || (numGroups > 1 && groupScore === "top2");
    const limit = { numGroups, topkGroups, groupScore };
    const indices = groupLimitedTopk(who, sums ? scores : logits, topK, limit, bias);
    let weights = normTopkProb
      ? normalizedScores(takeAlongLast(logits, indices), scoreFunction)
      : takeAlongLast(scores, indices);
    if (routedScalingFactor !== 1) weights = mul(weights, routedScalingFactor);
    let out = mixExperts(rows, experts, indices, weights);
    if (shared)
      out = linear(
        gated(experts.gluKind ?? "swiglu", linear(rows, shared.wGate), linear(rows, shared.wUp)),
        shared.wDown,
        undefined,
        { residual: out },
      );
    const shape = (last: number): number[] => [...x.shape.slice(0, -1), last];
    return {
      out: out.reshape(x.shape),
      logits: logits.reshape(shape(numExperts)),
      probs: scores.reshape(shape(numExperts)),
      indices: indices.reshape(shape(topK)),
      weights: weights.reshape(shape(topK)),
    };
  });
}

function expectShared(who: string, shared: SharedExperts, dim: number): void {
  expectWeights(`${who}, shared experts`, shared, ["wGate", "wUp", "wDown"]);
  const names = expectShape(who, "shared wGate", shared.wGate, ["hidden", dim]);
  expectShape(who, "shared wUp", shared.wUp, ["hidden", dim], names);
  expectShape(who, "shared wDown", shared.wDown, [dim, "hidden"], names);
}
