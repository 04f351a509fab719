import {
  ACTIVATIONS,
  add,
  ConfigError,
  div,
  expectShape,
  expectTensor,
  integer,
  linear,
  mean,
  mul,
  nested,
  number,
  oneOf,
  relu,
  schema,
  ShapeError,
  showShape,
  sigmoid,
  softmax,
  sqrt,
  sub,
  tensor,
  variance,
  type Config,
  type Tensor,
} from "@x/kernels";
import { activationName, EXPERT_ACTIVATIONS } from "../experts/expert_weights.js";
import { peerExperts } from "./peer_experts.js";
import { productKeyTopk } from "./product_key_topk.js";

const WEIGHTS = schema("peer, weights", {
  wQuery: tensor("[heads * queryDim, dim], rows ordered head, half, component."),
  keys: tensor("[2, n, queryDim / 2], shared by the heads, or [heads, 2, n, queryDim / 2]."),
  expertDown: tensor("u: [n^2, dim]."),
  expertUp: tensor("v: [n^2, dim]."),
  normWeight: tensor('[heads * queryDim]; with queryNorm "batch".', { optional: true }),
  normBias: tensor('[heads * queryDim]; with queryNorm "batch".', { optional: true }),
});
const STATISTICS = schema("peer, statistics", {
  mean: tensor("Mean of the query's features, [heads * queryDim]."),
  variance: tensor("Biased variance of the query's features, [heads * queryDim]."),
});

/** Keys of a layer and of a call. */
export const PEER_FIELDS = {
  numHeads: integer("Heads, each of which retrieves experts.", { min: 1 }),
  topK: integer("Experts of each head.", { min: 1 }),
  queryDim: integer("Width of a head's query; even.", { min: 2 }),
  queryNorm: oneOf("Normalise each query feature over all tokens.", ["none", "batch"], { default: "none" }),
  normEps: number("Added to the variance of the queries.", { min: 0, default: 1e-5 }),
  scoreActivation: oneOf(
    "Weights from the scores: softmax over the head's experts, or each by itself.",
    ["softmax", "sigmoid", "relu"],
    { default: "softmax" },
  ),
  activation: oneOf("Activation of an expert's neuron.", EXPERT_ACTIVATIONS, { default: "gelu" }),
};
const OPTIONS = schema("peer", {
  ...PEER_FIELDS,
  statistics: nested(STATISTICS, "Statistics in place of the batch's own: for evaluation.", {
    optional: true,
  }),
});

export type PeerWeights = Config<typeof WEIGHTS>;
/** Mean and biased variance of the query's features: [heads * queryDim]. */
export type QueryStatistics = Config<typeof STATISTICS>;
export type PeerOptions = Config<typeof OPTIONS>;

export interface PeerResult {
  /** In the shape of x. */
  readonly out: Tensor;
  /** i32 [..., heads, topK] */
  readonly indices: Tensor;
  /** [..., heads, topK] */
  readonly weights: Tensor;
  /** What the query was normalised by, with queryNorm "batch". */
  readonly statistics?: QueryStatistics | undefined;
}

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
  const who = OPTIONS.name;
  expectTensor(who, "x", x);
  const {
    numHeads,
    topK,
    queryDim,
    queryNorm,
    normEps,
    scoreActivation,
    activation,
    statistics: given,
  } = OPTIONS.read(options);
  const name = activationName(activation);
  const { wQuery, keys, expertDown, expertUp, normWeight, normBias } = WEIGHTS.read(weights);
  const dim = x.shape.at(-1) ?? 0;
  const tokens = x.size / Math.max(dim, 1);
  const n = keyCount(who, keys, numHeads, queryDim);
  const features = numHeads * queryDim;
  expectShape(who, "wQuery", wQuery, [features, dim]);
  expectShape(who, "expertDown", expertDown, [n * n, dim]);
  expectShape(who, "expertUp", expertUp, [n * n, dim]);
  const ofNorm = {
    normWeight,
    normBias,
    "statistics.mean": given?.mean,
    "statistics.variance": given?.variance,
  };
  for (const [key, t] of Object.entries(ofNorm)) {
    if (t === undefined) continue;
    expectShape(who, key, t, [features]);
    if (queryNorm === "none") throw new ConfigError(who, `${key} is given, but queryNorm is "none"`);
  }
  return x.gpu.scope(() => {
    const rows = x.reshape([tokens, dim]);
    let query = linear(rows, wQuery);
    let statistics: QueryStatistics | undefined;
    if (queryNorm === "batch") {
      statistics = given ?? {
        mean: mean(query, { axes: 0 }),
        variance: variance(query, { axes: 0 }),
      };
      query = div(sub(query, statistics.mean), sqrt(add(statistics.variance, normEps)));
      if (normWeight) query = mul(query, normWeight);
      if (normBias) query = add(query, normBias);
    }
    const found = productKeyTopk(query.reshape([tokens, numHeads, queryDim]), keys, { topK });
    const w = { softmax, sigmoid, relu }[scoreActivation](found.scores);
    const each = [tokens, numHeads * topK];
    const out = peerExperts(
      rows,
      w.reshape(each),
      found.indices.reshape(each),
      expertDown,
      expertUp,
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
