import { ACTIVATIONS, add, mul, noGrad, type ActivationName } from "@x/kernels";
import { peer, peerKeys } from "@x/moe";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { outStd, ParameterSet, STD } from "../parameters.js";
import { peerMemory } from "./memory.js";

/** Share of a new batch in the running statistics of the queries. */
const MOMENTUM = 0.1;

/**
 * PEER: `numKeys`^2 experts of one neuron; each of `numHeads` heads retrieves `topK` of them by product keys of
 * `queryDim`. `queryNorm` none or batch (running statistics outside training), `scoreActivation`, `activation`,
 * `keysPerHead` (false).
 */
export const peerBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, gain, name, gpu } = weights;
  const f = new Fields(`${name}: peer`, spec, [
    "type",
    "numKeys",
    "numHeads",
    "topK",
    "queryDim",
    "queryNorm",
    "scoreActivation",
    "activation",
    "keysPerHead",
  ]);
  const n = f.integer("numKeys");
  const numHeads = f.integer("numHeads");
  const queryDim = f.integer("queryDim", undefined, 2);
  if (queryDim % 2 !== 0) f.fail("queryDim", `is ${queryDim}; it must be even`);
  const options = {
    numHeads,
    queryDim,
    topK: f.integer("topK"),
    queryNorm: f.oneOf("queryNorm", ["none", "batch"], "none"),
    scoreActivation: f.oneOf("scoreActivation", ["softmax", "sigmoid", "relu"], "softmax"),
    activation: f.oneOf("activation", Object.keys(ACTIVATIONS) as ActivationName[], "gelu"),
  };
  if (options.topK > n) f.fail("topK", `is ${options.topK}; it must not exceed numKeys, ${n}`);
  const features = numHeads * queryDim;
  const normed = options.queryNorm === "batch";
  const set = new ParameterSet(weights);
  const heads = f.flag("keysPerHead", false) ? [numHeads] : [];
  const parts = {
    wQuery: set.normal("to_queries.weight", [features, model.dim], model.dim ** -0.5),
    keys: set.normal("keys", [...heads, 2, n, queryDim / 2], (queryDim / 2) ** -0.5),
    expertDown: set.normal("weight_down_embed.weight", [n * n, model.dim], model.dim ** -0.5),
    expertUp: set.normal("weight_up_embed.weight", [n * n, model.dim], (outStd(model) / STD) * gain * 0.1),
    normWeight: normed ? set.constant("norm.weight", [features], 1) : undefined,
    normBias: normed ? set.constant("norm.bias", [features], 0) : undefined,
  };
  const buffers = new ParameterSet(weights);
  const running = normed
    ? {
        mean: buffers.constant("norm.running_mean", [features], 0),
        variance: buffers.constant("norm.running_var", [features], 1),
      }
    : undefined;
  return {
    forward: (x, context, residual) => {
      const r = peer(x, parts, { ...options, statistics: context.training ? undefined : running });
      context.observe?.(`${name}.retrieval`, { x, indices: r.indices, weights: r.weights });
      const { statistics } = r;
      if (context.training && running && statistics)
        noGrad(() => {
          for (const key of ["mean", "variance"] as const)
            gpu.copy(add(mul(running[key], 1 - MOMENTUM), mul(statistics[key], MOMENTUM)), running[key]);
        });
      return residual ? add(residual, r.out) : r.out;
    },
    // Queries, keys, and the rows that are retrieved.
    activeParameters:
      parts.wQuery.size +
      parts.keys.size +
      2 * numHeads * options.topK * model.dim +
      (normed ? 2 * features : 0),
    parameters: () => set.all(),
    memory: peerMemory(parts.expertUp, (x) => peerKeys(x, parts, { ...options, statistics: running })),
    buffers: () => buffers.all(),
  };
};
