import {
  cast,
  ConfigError,
  expectInteger,
  expectTensors,
  integer,
  mean,
  mul,
  number,
  oneOf,
  schema,
  ShapeError,
  showShape,
  sum,
  type Config,
  type Tensor,
} from "@x/kernels";
import { countChoices, expectChoices, groupByField, groupCount } from "../router/choices.js";
import { normalizedScores, SCORE_FUNCTIONS } from "../router/scores.js";

const OPTIONS = schema("deepseekBalanceLoss", {
  kind: oneOf("What is balanced.", ["expert", "device", "communication"], { default: "expert" }),
  alpha: number("Factor of the loss.", { default: 1 }),
  scoreFunction: oneOf(
    "Scores of the experts; other scores than softmax are divided by their sum.",
    SCORE_FUNCTIONS,
    {
      default: "softmax",
    },
  ),
  numDevices: integer('Consecutive equal blocks of experts, for "device" and "communication".', {
    min: 1,
    optional: true,
  }),
  maxDevices: integer('Devices that a token may be sent to, for "communication".', {
    min: 1,
    optional: true,
  }),
  groupBy: groupByField("batch"),
});
export type DeepSeekBalanceOptions = Config<typeof OPTIONS>;

export interface DeepSeekBalanceResult {
  /** [1] */
  readonly loss: Tensor;
  /** [groups, experts or devices], no gradient. */
  readonly f: Tensor;
  /** [groups, experts or devices] */
  readonly p: Tensor;
}

/**
 * DeepSeek's balancing losses alpha sum f P per group, then the mean over groups. "expert": f_e = E / (K T) times the
 * choices of e, P_e = mean score (1 where both are even). "device": f is the mean and P the sum over a block of
 * experts. "communication": f = devices / (maxDevices T) times the tokens sent to the block, each once.
 *
 * logits [batch, seq, experts]; indices i32 [batch, seq, k], the choices that were made. arXiv:2401.06066, section 3.3;
 * V2, arXiv:2405.04434, section 2.2.3; V3, arXiv:2412.19437, equations 17-20.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function deepseekBalanceLoss(
  logits: Tensor,
  indices: Tensor,
  options: DeepSeekBalanceOptions = {},
): DeepSeekBalanceResult {
  const who = OPTIONS.name;
  expectTensors(who, { logits, indices });
  const { kind, alpha, scoreFunction, groupBy, numDevices, maxDevices } = OPTIONS.read(options);
  const k = expectChoices(who, indices);
  const experts = logits.shape.at(-1) ?? 0;
  if (showShape(indices.shape.slice(0, -1)) !== showShape(logits.shape.slice(0, -1)))
    throw new ShapeError(
      who,
      `indices have shape ${showShape(indices.shape)}, logits ${showShape(logits.shape)}; all axes but the last must be equal`,
    );
  const groups = groupCount(who, "logits", logits, groupBy);
  const tokens = logits.size / experts / groups;
  let devices = experts;
  if (kind !== "expert") {
    if (numDevices === undefined) throw new ConfigError(who, `kind "${kind}" needs numDevices`);
    devices = numDevices;
    expectInteger(who, "numDevices", devices, 1, experts);
    if (experts % devices !== 0)
      throw new ConfigError(who, `${experts} experts do not make ${devices} equal devices`);
  }
  let unit = experts / (k * tokens);
  if (kind === "device") unit *= devices / experts;
  if (kind === "communication") {
    if (maxDevices === undefined) throw new ConfigError(who, `kind "${kind}" needs maxDevices`);
    expectInteger(who, "maxDevices", maxDevices, 1, devices);
    unit = devices / (maxDevices * tokens);
  }
  const width = experts / devices;
  return logits.gpu.scope(() => {
    const scores = normalizedScores(logits, scoreFunction);
    const mean_ = mean(scores.reshape([groups, tokens, experts]), { axes: 1 });
    const p = width === 1 ? mean_ : sum(mean_.reshape([groups, devices, width]), { axes: -1 });
    const counts = countChoices(indices, { groups, experts, width, distinct: kind === "communication" });
    const f = mul(cast(counts, "f32"), unit);
    return { loss: mul(sum(mul(f, p)), alpha / groups).reshape([1]), f, p };
  });
}
