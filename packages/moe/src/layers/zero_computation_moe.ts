import {
  add,
  boolean,
  ConfigError,
  e,
  elementwise,
  expectShape,
  expectTensors,
  integer,
  linear,
  matmul,
  mul,
  number,
  schema,
  slice,
  softmax,
  sum,
  tensor,
  type Config,
  type Tensor,
} from "@x/kernels";
import { expertCount, type Experts } from "../experts/expert_weights.js";
import { mixExperts } from "../experts/experts.js";
import { checkDeepseekRouter, deepseekRouter } from "../router/deepseek_router.js";

const count = (doc: string) => integer(doc, { min: 0, default: 0 });
const OPTIONS = schema("zeroComputationMoe", {
  topK: integer("Experts of a token, those of every kind counted.", { min: 1 }),
  numCopy: count("Experts that return x."),
  numZero: count("Experts that return 0."),
  wConstant: tensor("[constants, 2, dim]: shares of x and of the constant, before their softmax.", {
    optional: true,
  }),
  constant: tensor("[constants, dim]: what the constant experts mix x with.", { optional: true }),
  normTopkProb: boolean("Divide the weights by their sum.", { default: true }),
  routedScalingFactor: number("Factor of the weights.", { default: 1 }),
  bias: tensor("[all experts]: added to the probabilities for choosing only (LongCat).", { optional: true }),
  previousLogits: tensor("[..., tokens, all experts]: the logits of the layer before (MoE++).", {
    optional: true,
  }),
  wPrevious: tensor("[all experts, all experts]; with previousLogits.", { optional: true }),
});
export type ZeroComputationMoeOptions = Config<typeof OPTIONS>;

export interface ZeroComputationMoeResult {
  /** In the shape of x. */
  readonly out: Tensor;
  /** [..., all experts]: the next layer's previousLogits. */
  readonly logits: Tensor;
  /** i32 [..., topK] */
  readonly indices: Tensor;
  /** [..., topK] */
  readonly weights: Tensor;
}

/** The experts are not in groups. */
const ONE_GROUP = { scoreFunction: "softmax", numGroups: 1, topkGroups: 1, groupScore: "max" } as const;

const shareOfRange = elementwise(
  "shareOfRange",
  ["index", "weight", "start", "end"],
  (index, weight, start, end) => e.mul(e.mul(e.ge(index, start), e.lt(index, end)), weight),
);

/** The tensors of the constant experts, both or neither; returns how many experts there are. */
function constantCount(who: string, { wConstant, constant }: ZeroComputationMoeOptions, dim: number): number {
  if ((wConstant === undefined) !== (constant === undefined))
    throw new ConfigError(who, "wConstant and constant must be given together");
  if (!wConstant || !constant) return 0;
  const { constants = 0 } = expectShape(who, "wConstant", wConstant, ["constants", 2, dim]);
  expectShape(who, "constant", constant, [constants, dim]);
  return constants;
}

/**
 * A mixture with experts that cost nothing, in this order after the E experts of `experts`: constant ones, which return
 * m_0 x + m_1 constant with (m_0, m_1) = softmax(wConstant x), copies, which return x, and zeros, which return 0. logits =
 * x wRouter^T (+ previousLogits wPrevious^T); the topK best of softmax(logits) + bias; out = sum_k weights_k expert_k(x).
 *
 * x [..., tokens, dim], wRouter [all experts, dim]; float32. MoE++, arXiv:2410.07348, equations 3-8; LongCat-Flash,
 * arXiv:2509.01322.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function zeroComputationMoe(
  x: Tensor,
  wRouter: Tensor,
  experts: Experts,
  options: ZeroComputationMoeOptions,
): ZeroComputationMoeResult {
  const who = OPTIONS.name;
  expectTensors(who, { x, wRouter });
  const read = OPTIONS.read(options);
  const { topK, numCopy, numZero, wConstant, constant, previousLogits, wPrevious, ...scaling } = read;
  const dim = x.shape.at(-1) ?? 0;
  const outer = x.shape.slice(0, -1);
  const first = expertCount(who, experts, dim);
  const constants = constantCount(who, read, dim);
  const copies = first + constants;
  const all = copies + numCopy + numZero;
  expectShape(who, "wRouter", wRouter, [all, dim]);
  if ((previousLogits === undefined) !== (wPrevious === undefined))
    throw new ConfigError(who, "previousLogits and wPrevious must be given together");
  if (previousLogits) expectShape(who, "previousLogits", previousLogits, [...outer, all]);
  if (wPrevious) expectShape(who, "wPrevious", wPrevious, [all, all]);
  checkDeepseekRouter(who, outer, all, { topK, ...scaling, ...ONE_GROUP });
  const tokens = x.size / dim;
  return x.gpu.scope(() => {
    const residual = previousLogits && wPrevious && linear(previousLogits, wPrevious);
    const logits = linear(x, wRouter, undefined, { residual });
    const { indices, weights } = deepseekRouter(logits, { topK, ...scaling });
    const rows = x.reshape([tokens, dim]);
    const perChoice = (t: Tensor): Tensor => t.reshape([tokens, 1, topK]);
    /** Weights of consecutive experts, summed in blocks of `width`: [tokens, blocks]. */
    const shares = (start: number, blocks: number, width: number): Tensor => {
      const starts = Array.from({ length: blocks }, (_, i) => start + i * width);
      const bound = (by: number): Tensor =>
        x.gpu.tensor(
          starts.map((i) => i + by),
          [blocks, 1],
          "i32",
        );
      return sum(shareOfRange(perChoice(indices), perChoice(weights), bound(0), bound(width)), { axes: -1 });
    };
    // The experts' own kernels pass by indices beyond theirs.
    let out = mixExperts(rows, experts, indices.reshape([tokens, topK]), weights.reshape([tokens, topK]));
    if (numCopy > 0) out = add(out, mul(rows, shares(copies, 1, numCopy)));
    if (wConstant && constant) {
      const mixed = softmax(
        linear(rows, wConstant.reshape([2 * constants, dim])).reshape([tokens, constants, 2]),
      );
      const share = shares(first, constants, 1);
      const part = (i: number): Tensor =>
        mul(slice(mixed, { axis: 2, start: i, end: i + 1 }).reshape([tokens, constants]), share);
      out = add(out, mul(rows, sum(part(0), { axes: -1, keepDims: true })));
      out = add(out, matmul(part(1), constant));
    }
    return { out: out.reshape(x.shape), logits, indices, weights };
  });
}
