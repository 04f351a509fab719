import {
  ACTIVATIONS,
  add,
  checkConfig,
  div,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectShape,
  linear,
  mean,
  mul,
  relu,
  ShapeError,
  showShape,
  sigmoid,
  softmax,
  sqrt,
  sub,
  variance,
  type ActivationName,
  type Tensor,
} from "@x/kernels";
import { activationName, expectWeights, type ExpertActivation } from "../experts/expert_weights.js";
import { peerExperts } from "./peer_experts.js";
import { productKeyTopk } from "./product_key_topk.js";

export interface PeerWeights {
  /** [heads * queryDim, dim], rows ordered head, half, component. */
  readonly wQuery: Tensor;
  /** [2, n, queryDim / 2], shared by the heads, or [heads, 2, n, queryDim / 2]. */
  readonly keys: Tensor;
  /** u: [n^2, dim] */
  readonly expertDown: Tensor;
  /** v: [n^2, dim] */
  readonly expertUp: Tensor;
  /** [heads * queryDim]; with queryNorm "batch". */
  readonly normWeight?: Tensor | undefined;
  readonly normBias?: Tensor | undefined;
}

export interface PeerOptions {
  readonly numHeads: number;
  /** Experts of each head. */
  readonly topK: number;
  /** Even. */
  readonly queryDim: number;
  /** Normalise each query feature over all tokens; default "none". */
  readonly queryNorm?: "none" | "batch";
  /** Default 1e-5. */
  readonly normEps?: number;
  /** Statistics [heads * queryDim] in place of the batch's own: for evaluation. */
  readonly statistics?: QueryStatistics | undefined;
  /** Weights from the scores: softmax over the head's experts, or each by itself. Default "softmax". */
  readonly scoreActivation?: "softmax" | "sigmoid" | "relu";
  /** Default "gelu". */
  readonly activation?: ExpertActivation;
}

/** Mean and biased variance of the query's features: [heads * queryDim]. */
export interface QueryStatistics {
  readonly mean: Tensor;
  readonly variance: Tensor;
}

export interface PeerResult {
  /** In the shape of x. */
  readonly out: Tensor;
  /** i32 [..., heads, topK] */
  readonly indices: Tensor;
  /** [..., heads, topK] */
  readonly weights: Tensor;
  /** What the query was normalised by, with queryNorm "batch". */
  readonly statistics?: QueryStatistics;
}

const WEIGHTS = ["wQuery", "keys", "expertDown", "expertUp"];

/** Names of `PeerOptions`. */
const KEYS = [
  "numHeads",
  "topK",
  "queryDim",
  "queryNorm",
  "normEps",
  "statistics",
  "scoreActivation",
  "activation",
];

/**
 * PEER: up to a million experts of one neuron each, found by product keys. q = x wQuery^T, batch-normalised or not;
 * per head the topK best of n^2 keys, w from their scores; out = sum_{h,k} w_{h,k} act(u_e . x) v_e. The cost grows
 * with n, the square root of the number of experts, and with the experts retrieved.
 *
 * The tables' gradients are computed for the retrieved rows alone but have the tables' shape, cleared at each step:
 * optimizers with moments and weight decay move the other rows too.
 *
 * x [..., dim]. With topK 1 and softmax every weight is 1 and the router gets no gradient. He 2024, arXiv:2407.04153,
 * section 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function peer(x: Tensor, weights: PeerWeights, options: PeerOptions): PeerResult {
  const who = "peer";
  checkConfig(who, options, KEYS);
  const { numHeads, topK, queryDim, queryNorm = "none", normEps = 1e-5 } = options;
  const { scoreActivation = "softmax", activation = "gelu" } = options;
  expectInteger(who, "numHeads", numHeads, 1);
  expectInteger(who, "queryDim", queryDim, 2);
  expectOneOf(who, "queryNorm", queryNorm, ["none", "batch"]);
  expectNumber(who, "normEps", normEps, 0);
  expectOneOf(who, "scoreActivation", scoreActivation, ["softmax", "sigmoid", "relu"]);
  const name: ActivationName = activationName(who, activation);
  expectWeights(`${who}, weights`, weights, WEIGHTS, ["normWeight", "normBias"]);
  const dim = x.shape.at(-1) ?? 0;
  const tokens = x.size / Math.max(dim, 1);
  const n = keyCount(who, weights.keys, numHeads, queryDim);
  const features = numHeads * queryDim;
  expectShape(who, "wQuery", weights.wQuery, [features, dim]);
  expectShape(who, "expertDown", weights.expertDown, [n * n, dim]);
  expectShape(who, "expertUp", weights.expertUp, [n * n, dim]);
  for (const name of ["normWeight", "normBias"] as const) {
    const given = weights[name];
    if (!given) continue;
    expectShape(who, name, given, [features]);
    if (queryNorm === "none") throw new ShapeError(who, `${name} is given, but queryNorm is "none"`);
  }
  return x.gpu.scope(() => {
    const rows = x.reshape([tokens, dim]);
    let query = linear(rows, weights.wQuery);
    let statistics: QueryStatistics | undefined;
    if (queryNorm === "batch") {
      statistics = options.statistics ?? {
        mean: mean(query, { axes: 0 }),
        variance: variance(query, { axes: 0 }),
      };
      query = div(sub(query, statistics.mean), sqrt(add(statistics.variance, normEps)));
      if (weights.normWeight) query = mul(query, weights.normWeight);
      if (weights.normBias) query = add(query, weights.normBias);
    }
    const found = productKeyTopk(query.reshape([tokens, numHeads, queryDim]), weights.keys, { topK });
    const w = { softmax, sigmoid, relu }[scoreActivation](found.scores);
    const each = [tokens, numHeads * topK];
    const out = peerExperts(
      rows,
      w.reshape(each),
      found.indices.reshape(each),
      weights.expertDown,
      weights.expertUp,
      name,
      ACTIVATIONS[name],
    );
    const shape = [...x.shape.slice(0, -1), numHeads, topK];
    return {
      out: out.reshape(x.shape),
      indices: found.indices.reshape(shape),
      weights: w.reshape(shape),
      ...(statistics ? { statistics } : {}),
    };
  });
}

function keyCount(who: string, keys: Tensor, numHeads: number, queryDim: number): number {
  const shape = keys.rank === 4 ? keys.shape.slice(1) : keys.shape;
  if (
    shape.length !== 3 ||
    shape[0] !== 2 ||
    2 * shape[2]! !== queryDim ||
    (keys.rank === 4 && keys.shape[0] !== numHeads)
  )
    throw new ShapeError(
      who,
      `keys have shape ${showShape(keys.shape)}; they must be [2, n, ${queryDim / 2}] or [${numHeads}, 2, n, ${queryDim / 2}]`,
    );
  return shape[1]!;
}
