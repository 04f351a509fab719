import {
  abs,
  checkConfig,
  concat,
  ConfigError,
  e,
  elementwise,
  embedding as rowsOf,
  exp,
  expectInteger,
  expectOneOf,
  expectShape,
  linear,
  logSumExp,
  matmul,
  mul,
  slice,
  sub,
  sum,
  square,
  takeAlongLast,
  topk,
  transpose,
  type GluKind,
  type Tensor,
} from "@x/kernels";
import { activation, checkBeta, type ActivationKind } from "../activation.js";
import type { FfnWeights } from "../ffn.js";
import { gate, type GluWeights } from "../glu.js";

/** How the keys of a token are ordered: by m_i, or by |m_i| times the length of the value. */
export type RankBy = "coefficient" | "contribution";

/** What the keys of a block say about each token. */
export interface KeyActivity {
  /** m_i, how strongly key i fires: [..., F] */
  readonly coefficients: Tensor;
  /** The key's own score before the activation: [..., F] */
  readonly preActivation: Tensor;
}

/** m = act(x w1^T + b1) of a plain block. */
export function ffnKeys(
  x: Tensor,
  weights: Pick<FfnWeights, "w1" | "b1" | "beta">,
  kind: ActivationKind = "relu",
): KeyActivity {
  const beta =
    kind === "swish" ? checkBeta("ffnKeys", kind, weights.beta, weights.w1.shape[0] ?? 1) : undefined;
  const preActivation = linear(x, weights.w1, weights.b1);
  return { preActivation, coefficients: activation(preActivation, kind, { beta }) };
}

/** m = g(x wGate^T + bGate) * (x wUp^T + bUp) of a gated block; the pre-activation is that of the gate. */
export function gluKeys(x: Tensor, weights: GluWeights, kind: GluKind = "swiglu"): KeyActivity {
  const beta = checkBeta("gluKeys", kind, weights.beta, weights.wGate.shape[0] ?? 1);
  const preActivation = linear(x, weights.wGate, weights.bGate);
  const coefficients = gate(kind, preActivation, linear(x, weights.wUp, weights.bUp), beta);
  return { preActivation, coefficients };
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
export function topKeys(
  coefficients: Tensor,
  w2: Tensor,
  k: number,
  options: { /** Default "coefficient". */ readonly rankBy?: RankBy } = {},
): TopKeys {
  const who = "topKeys";
  checkConfig(who, options, ["rankBy"]);
  const { rankBy = "coefficient" } = options;
  expectOneOf(who, "rankBy", rankBy, ["coefficient", "contribution"]);
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
 */
export function keyTriggers(preActivation: Tensor, n: number): { index: Tensor; score: Tensor } {
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

export interface FfnMemoryOptions {
  /** Default "relu". */
  readonly activation?: ActivationKind;
  readonly rankBy?: RankBy;
  /** Keys per token; default 0, none. */
  readonly topKeys?: number;
  /** Tokens per key; default 0. */
  readonly topTriggers?: number;
  /** Vocabulary tokens per value; default 0. Needs `embedding`. */
  readonly topTokens?: number;
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
export function ffnMemory(
  x: Tensor,
  weights: FfnWeights & { readonly embedding?: Tensor | undefined },
  options: FfnMemoryOptions = {},
): FfnMemory {
  const who = "ffnMemory";
  checkConfig(who, options, ["activation", "rankBy", "topKeys", "topTriggers", "topTokens"]);
  const { rankBy = "coefficient", topKeys: keys = 0, topTriggers = 0, topTokens = 0 } = options;
  const { w2, b2, embedding } = weights;
  if (topTokens > 0 && !embedding)
    throw new ConfigError(who, `topTokens is ${String(topTokens)}, but there is no embedding`);
  return x.gpu.scope(() => {
    const { coefficients, preActivation } = ffnKeys(x, weights, options.activation);
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
