import {
  boolean,
  expectInteger,
  expectOneOf,
  expectShape,
  integer,
  linear,
  mul,
  number,
  oneOf,
  schema,
  sigmoid,
  softmax,
  takeAlongLast,
  tensor,
  type Config,
  type Tensor,
} from "@x/kernels";
import { expectRouted, type GatedExperts } from "../experts/expert_weights.js";
import { gated, mixExperts } from "../experts/experts.js";
import { expectGroups, groupLimitedTopk } from "../router/group_limited.js";
import { normalizedScores } from "../router/router.js";

const SHARED = schema("shared experts", {
  wGate: tensor("[numShared * hidden, dim]."),
  wUp: tensor("[numShared * hidden, dim]."),
  wDown: tensor("[dim, numShared * hidden]."),
});
/** The shared experts as one gated layer of width numShared * hidden. */
export type SharedExperts = Config<typeof SHARED>;

/** Keys of the router, besides how many experts a token visits. */
export const DEEPSEEK_FIELDS = {
  scoreFunction: oneOf(
    'Scores of the experts: "softmax" (V1, V2) or "sigmoid" (V3).',
    ["softmax", "sigmoid"],
    {
      default: "softmax",
    },
  ),
  numGroups: integer("Consecutive equal groups of experts, of which the best topkGroups remain.", {
    min: 1,
    default: 1,
  }),
  topkGroups: integer("Groups that remain.", { min: 1, defaultDoc: "numGroups" }),
  groupScore: oneOf("Score of a group: its best expert, or the sum of its two best.", ["max", "top2"], {
    defaultDoc: '"max" for softmax, "top2" for sigmoid',
  }),
  normTopkProb: boolean("Divide the weights by their sum.", { defaultDoc: "true for sigmoid" }),
  routedScalingFactor: number("Factor of the weights.", { default: 1 }),
};
const OPTIONS = schema("deepseekMoe", {
  topK: integer("Routed experts of a token.", { min: 1 }),
  ...DEEPSEEK_FIELDS,
  bias: tensor("[experts]: added to the scores for choosing only (V3); no gradient.", { optional: true }),
});
export type DeepSeekMoeOptions = Config<typeof OPTIONS>;

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
 * x [..., tokens, dim], wRouter [experts, dim]; float32. Dai et al. 2024, arXiv:2401.06066, equations 9-11; V2, arXiv:2405.04434,
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
  const who = OPTIONS.name;
  const numExperts = expectRouted(who, x, wRouter, experts);
  expectOneOf(who, "kind of the experts", experts.kind, ["glu"]);
  const { topK, scoreFunction, bias, numGroups, routedScalingFactor, ...rest } = OPTIONS.read(options);
  const v3 = scoreFunction === "sigmoid";
  const { topkGroups = numGroups, groupScore = v3 ? "top2" : "max", normTopkProb = v3 } = rest;
  const dim = x.shape.at(-1)!;
  expectInteger(who, "topK", topK, 1, numExperts);
  expectGroups(who, numExperts, topK, { numGroups, topkGroups, groupScore });
  if (bias) expectShape(who, "bias", bias, [numExperts]);
  if (shared !== undefined) expectShared(who, shared, dim);
  const tokens = x.size / dim;
  return x.gpu.scope(() => {
    const rows = x.reshape([tokens, dim]);
    const logits = linear(rows, wRouter);
    const scores = v3 ? sigmoid(logits) : softmax(logits);
    // By the logits, whose order is that of the scores where those round to 1 or 0, unless scores are added to.
    const sums = bias !== undefined || (numGroups > 1 && groupScore === "top2");
    const indices = groupLimitedTopk(sums ? scores : logits, {
      topK,
      numGroups,
      topkGroups,
      groupScore,
      bias,
    });
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
  SHARED.read(shared, `${who}, shared experts`);
  const names = expectShape(who, "shared wGate", shared.wGate, ["hidden", dim]);
  expectShape(who, "shared wUp", shared.wUp, ["hidden", dim], names);
  expectShape(who, "shared wDown", shared.wDown, [dim, "hidden"], names);
}
