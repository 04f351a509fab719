import {
  abs,
  concat,
  ConfigError,
  e,
  elementwise,
  embedding as rowsOf,
  exp,
  expectDType,
  expectInteger,
  expectOneOf,
  expectShape,
  integer,
  linear,
  logSumExp,
  matmul,
  mul,
  oneOf,
  schema,
  slice,
  sub,
  sum,
  square,
  takeAlongLast,
  tensor,
  topk,
  transpose,
  type Config,
  type Field,
  type GluKind,
  type Tensor,
} from "@x/kernels";
import { activation, ACTIVATION_KINDS, type ActivationKind } from "../activation.js";
import { checkBlock, checkKeys, FFN_WEIGHTS } from "../ffn.js";
import { checkGlu, gate, GLU_FIELDS, GLU_KINDS } from "../glu.js";
import { expectOperands } from "../operands.js";

const RANK_BY = oneOf(
  'What orders the keys of a token: m_i, or "contribution", |m_i| times the length of the value.',
  ["coefficient", "contribution"],
  { default: "coefficient" },
);
const KEYS = schema("ffnKeys", {
  ...FFN_WEIGHTS,
  w2: tensor("Not read; a block's weights may be given whole.", { optional: true }),
});
const GLU_KEYS = schema("gluKeys", {
  ...GLU_FIELDS,
  wDown: tensor("Not read; a block's weights may be given whole.", { optional: true }),
  bDown: tensor("Not read.", { optional: true }),
});
const TOP_KEYS = schema("topKeys", { rankBy: RANK_BY });
const count = (doc: string): Field<number, "default"> => integer(doc, { min: 0, default: 0 });
const OPTIONS = schema("ffnMemory", {
  activation: oneOf("The block's activation.", ACTIVATION_KINDS, { default: "relu" }),
  rankBy: RANK_BY,
  topKeys: count("Keys per token; 0: none."),
  topTriggers: count("Tokens per key; 0: none."),
  topTokens: count("Vocabulary tokens per value, which needs `embedding`; 0: none."),
});
const WEIGHTS = schema("ffnMemory", {
  ...FFN_WEIGHTS,
  embedding: tensor("Vectors of the vocabulary, [V, dim].", { optional: true }),
});
export type FfnKeysWeights = Config<typeof KEYS>;
export type GluKeysWeights = Config<typeof GLU_KEYS>;
export type TopKeysOptions = Config<typeof TOP_KEYS>;
export type RankBy = NonNullable<TopKeysOptions["rankBy"]>;
export type FfnMemoryOptions = Config<typeof OPTIONS>;
export type FfnMemoryWeights = Config<typeof WEIGHTS>;

/** What the keys of a block say about each token. */
export interface KeyActivity {
  /** m_i, how strongly key i fires: [..., F] */
  readonly coefficients: Tensor;
  /** The key's own score before the activation: [..., F] */
  readonly preActivation: Tensor;
}

/** `ffnKeys` of operands that were checked. */
function keysOf(x: Tensor, { w1, b1, beta }: FfnKeysWeights, kind: ActivationKind): KeyActivity {
  const preActivation = linear(x, w1, b1);
  return { preActivation, coefficients: activation(preActivation, kind, { beta }) };
}

/**
 * Coefficients m = act(x w1^T + b1) of the keys of a plain block.
 *
 * x [..., dim], w1 [F, dim], b1 [F], f32 or f16. Geva et al. 2021, arXiv:2012.14913, equation 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function ffnKeys(x: Tensor, weights: FfnKeysWeights, kind: ActivationKind = "relu"): KeyActivity {
  const who = KEYS.name;
  const given = KEYS.read(weights);
  expectOneOf(who, "kind", kind, ACTIVATION_KINDS);
  checkKeys(who, x, given, kind);
  return x.gpu.scope(() => keysOf(x, given, kind));
}

/**
 * Coefficients m = g(x wGate^T + bGate) * (x wUp^T + bUp) of the keys of a gated block; the pre-activation is that of
 * the gate.
 *
 * x [..., dim], wGate and wUp [F, dim], biases [F], f32 or f16.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function gluKeys(x: Tensor, weights: GluKeysWeights, kind: GluKind = "swiglu"): KeyActivity {
  const who = GLU_KEYS.name;
  const { wGate, wUp, bGate, bUp, beta } = GLU_KEYS.read(weights);
  expectOneOf(who, "kind", kind, GLU_KINDS);
  checkGlu(who, x, { wGate, wUp, bGate, bUp, beta }, kind);
  return x.gpu.scope(() => {
    const preActivation = linear(x, wGate, bGate);
    return { preActivation, coefficients: gate(kind, preActivation, linear(x, wUp, bUp), beta) };
  });
}

/** The length of a vector from its square; of slope 0 at 0. */
const length = elementwise("norm2", ["square"], (x) => e.sqrt(e.max(x, 1e-30)));

export interface TopKeys {
  /** i32 [..., K] */
  readonly index: Tensor;
  /** [..., K], falling */
  readonly score: Tensor;
  /** m_i value_i of those keys: [..., K, D] */
  readonly contribution: Tensor;
}

/**
 * The k keys that matter most to each token. Equal scores: the lower index first. Gradients flow through scores and
 * contributions; the indices are constants.
 *
 * coefficients [..., F]; w2 [D, F], whose columns are the values.
 *
 * @throws ShapeError, ConfigError
 */
export function topKeys(coefficients: Tensor, w2: Tensor, k: number, options: TopKeysOptions = {}): TopKeys {
  const who = TOP_KEYS.name;
  const { rankBy } = TOP_KEYS.read(options);
  expectDType(who, "coefficients", coefficients, "f32", "f16");
  expectDType(who, "w2", w2, "f32", "f16");
  const F = coefficients.shape.at(-1) ?? 0;
  expectShape(who, "w2", w2, ["D", F]);
  expectInteger(who, "k", k, 1, F);
  return w2.gpu.scope(() => {
    const scores =
      rankBy === "coefficient" ? coefficients : mul(abs(coefficients), length(sum(square(w2), { axes: 0 })));
    const { values: score, indices: index } = topk(scores, k);
    const m = takeAlongLast(coefficients, index);
    const contribution = mul(m.reshape([...m.shape, 1]), rowsOf(transpose(w2), index));
    return { index, score, contribution };
  });
}

/**
 * The n tokens that excite each key most, by the pre-activation (coefficients of ReLU tie at 0).
 *
 * preActivation [..., F]; index i32 [F, n], the number of the token over all leading axes; score [F, n].
 *
 * @throws DTypeError, ConfigError
 */
export function keyTriggers(preActivation: Tensor, n: number): { index: Tensor; score: Tensor } {
  expectDType("keyTriggers", "preActivation", preActivation, "f32", "f16");
  const F = preActivation.shape.at(-1) ?? 0;
  const tokens = preActivation.size / Math.max(F, 1);
  expectInteger("keyTriggers", "n", n, 1, tokens);
  return preActivation.gpu.scope(() => {
    const { values: score, indices: index } = topk(transpose(preActivation.reshape([tokens, F])), n);
    return { index, score };
  });
}

/** Elements of the table of logits that is held at once. */
const TABLE = 1 << 22;

/**
 * What each value says in the vocabulary's terms: the n likeliest tokens of softmax(embedding value_i).
 *
 * w2 [D, F], whose columns are the values; embedding [V, D]; index i32 [F, n], prob [F, n]. The logits are made for
 * some values at a time.
 *
 * @throws ShapeError, ConfigError
 */
export function valueTokens(w2: Tensor, embedding: Tensor, n: number): { index: Tensor; prob: Tensor } {
  const who = "valueTokens";
  expectDType(who, "w2", w2, "f32", "f16");
  expectDType(who, "embedding", embedding, "f32", "f16");
  const names = expectShape(who, "w2", w2, ["D", "F"]);
  const { V = 0, F = 0 } = expectShape(who, "embedding", embedding, ["V", "D"], names);
  expectInteger(who, "n", n, 1, V);
  const rows = Math.max(1, Math.floor(TABLE / V));
  return w2.gpu.scope(() => {
    const parts: { index: Tensor; prob: Tensor }[] = [];
    for (let start = 0; start < F; start += rows) {
      parts.push(
        w2.gpu.scope(() => {
          const values = slice(w2, { axis: 1, start, end: Math.min(start + rows, F) });
          const logits = matmul(values, embedding, { transposeA: true, transposeB: true });
          const { values: best, indices: index } = topk(logits, n);
          return { index, prob: exp(sub(best, logSumExp(logits).reshape([best.shape[0]!, 1]))) };
        }),
      );
    }
    const join = (tensors: Tensor[]): Tensor => (tensors.length === 1 ? tensors[0]! : concat(tensors, 0));
    return { index: join(parts.map((p) => p.index)), prob: join(parts.map((p) => p.prob)) };
  });
}

export interface FfnMemory {
  /** [..., D] */
  readonly out: Tensor;
  /** [..., F] */
  readonly coefficients: Tensor;
  readonly topIndex?: Tensor;
  readonly topScore?: Tensor;
  readonly topContribution?: Tensor;
  readonly triggerIndex?: Tensor;
  readonly triggerScore?: Tensor;
  readonly tokenIndex?: Tensor;
  readonly tokenProb?: Tensor;
}

/**
 * A feed-forward block read as a memory: key i is row i of w1, value i is column i of w2, and
 * ffn(x) = sum_i m_i value_i + b2 with m_i = act(x . key_i + b1_i). Says which keys fire for a token, which tokens
 * trigger a key, and which words a value promotes.
 *
 * x [..., D]; embedding [V, D]. Geva et al. 2021, arXiv:2012.14913, sections 2 to 4.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function ffnMemory(x: Tensor, weights: FfnMemoryWeights, options: FfnMemoryOptions = {}): FfnMemory {
  const who = OPTIONS.name;
  const { embedding, ...block } = WEIGHTS.read(weights);
  const { activation: kind, rankBy, topKeys: keys, topTriggers, topTokens } = OPTIONS.read(options);
  const { w2, b2 } = block;
  const { hidden, out } = checkBlock(who, x, block, kind);
  if (embedding) expectOperands(who, { embedding: [embedding, ["vocabulary", out]] });
  if (topTokens > 0 && !embedding)
    throw new ConfigError(who, `topTokens is ${topTokens}, but there is no embedding`);
  expectInteger(who, "topKeys", keys, 0, hidden);
  expectInteger(who, "topTriggers", topTriggers, 0, x.size / Math.max(x.shape.at(-1)!, 1));
  expectInteger(who, "topTokens", topTokens, 0, embedding?.shape[0] ?? 0);
  return x.gpu.scope(() => {
    const { coefficients, preActivation } = keysOf(x, block, kind);
    const top = keys === 0 ? undefined : topKeys(coefficients, w2, keys, { rankBy });
    const triggers = topTriggers === 0 ? undefined : keyTriggers(preActivation, topTriggers);
    const tokens = topTokens === 0 ? undefined : valueTokens(w2, embedding!, topTokens);
    return {
      out: linear(coefficients, w2, b2),
      coefficients,
      ...(top && { topIndex: top.index, topScore: top.score, topContribution: top.contribution }),
      ...(triggers && { triggerIndex: triggers.index, triggerScore: triggers.score }),
      ...(tokens && { tokenIndex: tokens.index, tokenProb: tokens.prob }),
    };
  });
}
