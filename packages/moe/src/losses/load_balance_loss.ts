import {
  cast,
  ConfigError,
  div,
  expectDType,
  expectInteger,
  expectShape,
  expectTensor,
  integer,
  maximum,
  mul,
  number,
  oneOf,
  schema,
  softmax,
  sum,
  tensor,
  topk,
  type Config,
  type Tensor,
} from "@x/kernels";
import { countChoices, groupByField, groupCount } from "../router/choices.js";

/** Mask of tokens (0: padding) as i32 [tokens]. */
export function tokenMask(who: string, logits: Tensor, mask: Tensor): Tensor {
  expectShape(who, "mask", mask, logits.shape.slice(0, -1));
  expectDType(who, "mask", mask, "i32");
  return mask.reshape([mask.size]);
}

const OPTIONS = schema("loadBalanceLoss", {
  kind: oneOf("What is counted, and the factor.", ["switch", "gshard", "topk"], { default: "switch" }),
  alpha: number("Factor of the loss.", { default: 1 }),
  topK: integer('Choices a token; kind "topk" needs it.', { min: 1, optional: true }),
  groupBy: groupByField("batch"),
  mask: tensor("i32 [batch, seq]: 0 is padding.", { optional: true }),
});
export type LoadBalanceOptions = Config<typeof OPTIONS>;

export interface LoadBalanceResult {
  /** [1] */
  readonly loss: Tensor;
  /** f: [groups, experts], no gradient. */
  readonly fraction: Tensor;
  /** P: [groups, experts] */
  readonly meanProb: Tensor;
}

/**
 * Load-balancing loss alpha E sum_e f_e P_e: f the share of choices, P the mean probability of expert e; 1 where both
 * are even ("topk": K). "gshard" divides by E^2. Per group, then the mean over the groups.
 *
 * logits [batch, seq, experts]. Fedus et al. 2021, arXiv:2101.03961, equations 4-6; GShard, arXiv:2006.16668,
 * algorithm 1.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function loadBalanceLoss(logits: Tensor, options: LoadBalanceOptions = {}): LoadBalanceResult {
  const who = OPTIONS.name;
  expectTensor(who, "logits", logits);
  const { kind, alpha, groupBy, topK, mask: given } = OPTIONS.read(options);
  if (kind === "topk" && topK === undefined) throw new ConfigError(who, 'kind "topk" needs topK');
  const k = kind === "topk" ? topK! : 1;
  const experts = logits.shape.at(-1) ?? 0;
  expectInteger(who, "topK", k, 1, experts);
  const groups = groupCount(who, "logits", logits, groupBy);
  const tokens = logits.size / experts / groups;
  const mask = given && tokenMask(who, logits, given);
  return logits.gpu.scope(() => {
    const weight = mask && cast(mask, "f32").reshape([groups, tokens, 1]);
    const count = weight ? maximum(sum(weight, { axes: 1 }), 1) : tokens;
    const all = softmax(logits).reshape([groups, tokens, experts]);
    const meanProb = div(sum(weight ? mul(all, weight) : all, { axes: 1 }), count);
    const counts = countChoices(topk(logits, k).indices, { groups, experts, mask });
    const fraction = div(cast(counts, "f32"), count);
    const factor = (alpha * (kind === "gshard" ? 1 / experts : experts)) / groups;
    return { loss: mul(sum(mul(fraction, meanProb)), factor).reshape([1]), fraction, meanProb };
  });
}
