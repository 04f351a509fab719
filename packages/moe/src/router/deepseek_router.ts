import {
  boolean,
  ConfigError,
  expectDType,
  expectInteger,
  expectShape,
  expectTensor,
  integer,
  mul,
  number,
  oneOf,
  schema,
  takeAlongLast,
  tensor,
  type Config,
  type Resolved,
  type Tensor,
} from "@x/kernels";
import { expectGroups, groupLimitedTopk, type GroupLimit } from "./group_limited.js";
import { normalizedScores, SCORE_FUNCTIONS, scoresOf, type ScoreFunction } from "./scores.js";

/** Keys of the router in a layer's configuration, besides how many experts a token visits. */
export const DEEPSEEK_FIELDS = {
  scoreFunction: oneOf(
    'Scores of the experts: "softmax" (V1, V2), "sigmoid" (V3) or "sqrtSoftplus" (V4).',
    SCORE_FUNCTIONS,
    { default: "softmax" },
  ),
  numGroups: integer("Consecutive equal groups of experts, of which the best topkGroups remain.", {
    min: 1,
    default: 1,
  }),
  topkGroups: integer("Groups that remain.", { min: 1, defaultDoc: "numGroups" }),
  groupScore: oneOf("Score of a group: its best expert, or the sum of its two best.", ["max", "top2"], {
    defaultDoc: '"max" for softmax, otherwise "top2"',
  }),
  normTopkProb: boolean("Divide the weights by their sum.", {
    defaultDoc: "false for softmax, otherwise true",
  }),
  routedScalingFactor: number("Factor of the weights.", { default: 1 }),
};
const OPTIONS = schema("deepseekRouter", {
  topK: integer("Experts of a token.", { min: 1 }),
  ...DEEPSEEK_FIELDS,
  bias: tensor("[experts]: added to the scores for choosing only (V3); no gradient.", { optional: true }),
  forced: tensor("i32 [..., topK]: the choice itself, as V4's first layers look it up by token.", {
    optional: true,
  }),
});
export type DeepSeekRouterOptions = Config<typeof OPTIONS>;
type ReadOptions = Pick<
  Resolved<typeof OPTIONS>,
  "topK" | "scoreFunction" | "numGroups" | "topkGroups" | "groupScore" | "bias"
> & { readonly forced?: Tensor | undefined };

export interface DeepSeekRouterResult {
  /** [..., experts] */
  readonly scores: Tensor;
  /** i32 [..., topK], the best first. */
  readonly indices: Tensor;
  /** [..., topK] */
  readonly weights: Tensor;
}

/** The groups that a configuration says; V1 and V2 score a group by its best expert, later ones by the two best. */
export const groupLimit = (given: {
  readonly scoreFunction: ScoreFunction;
  readonly numGroups: number;
  readonly topkGroups: number | undefined;
  readonly groupScore: GroupLimit["groupScore"] | undefined;
}): GroupLimit => ({
  numGroups: given.numGroups,
  topkGroups: given.topkGroups ?? given.numGroups,
  groupScore: given.groupScore ?? (given.scoreFunction === "softmax" ? "max" : "top2"),
});

/** Checks a router's options, read, against logits [outer, experts], before anything is computed. */
export function checkDeepseekRouter(
  caller: string,
  outer: readonly number[],
  experts: number,
  options: ReadOptions,
): void {
  const { topK, bias, forced } = options;
  expectInteger(caller, "topK", topK, 1, experts);
  expectGroups(caller, experts, topK, groupLimit(options));
  if (bias) expectShape(caller, "bias", bias, [experts]);
  if (!forced) return;
  if (bias) throw new ConfigError(caller, "bias and forced are given; a choice that is forced has no bias");
  expectDType(caller, "forced", forced, "i32");
  expectShape(caller, "forced", forced, [...outer, topK]);
}

/**
 * DeepSeek's routers: scores s of the logits; the topK best of s + bias within the best groups, or the experts that
 * `forced` names; weights are s of the chosen, divided by (their sum + 1e-20) with `normTopkProb`, times
 * `routedScalingFactor`. Indices are constants for the gradient; ties go to the lower index.
 *
 * logits [..., experts], f32. V2, arXiv:2405.04434, section 2.1.2; V3, arXiv:2412.19437, equations 12-16; the square
 * root of softplus is V4's.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function deepseekRouter(logits: Tensor, options: DeepSeekRouterOptions): DeepSeekRouterResult {
  const who = OPTIONS.name;
  expectTensor(who, "logits", logits);
  expectDType(who, "logits", logits, "f32");
  const read = OPTIONS.read(options);
  const experts = logits.shape.at(-1) ?? 0;
  const outer = logits.shape.slice(0, -1);
  checkDeepseekRouter(who, outer, experts, read);
  const { topK, scoreFunction, bias, forced, routedScalingFactor } = read;
  const { normTopkProb = scoreFunction !== "softmax" } = read;
  const limit = groupLimit(read);
  return logits.gpu.scope(() => {
    const rows = logits.reshape([logits.size / experts, experts]);
    const scores = scoresOf(rows, scoreFunction);
    // By the logits, whose order is that of the scores where those round to 1 or 0, unless scores are added to.
    const sums = bias !== undefined || (limit.numGroups > 1 && limit.groupScore === "top2");
    const indices =
      forced?.reshape([rows.shape[0]!, topK]) ??
      groupLimitedTopk(sums ? scores : rows, { topK, ...limit, bias });
    const weights = normTopkProb
      ? normalizedScores(takeAlongLast(rows, indices), scoreFunction)
      : takeAlongLast(scores, indices);
    const scaled = routedScalingFactor === 1 ? weights : mul(weights, routedScalingFactor);
    return {
      scores: scores.reshape(logits.shape),
      indices: indices.reshape([...outer, topK]),
      weights: scaled.reshape([...outer, topK]),
    };
  });
}
