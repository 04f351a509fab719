import { LatentCache, MultiHeadLatentAttention, type MlaConfig, type Rotary } from "@x/attention";
import { ConfigError } from "@x/kernels";
import { rmsNorm } from "@x/norm";
import { configOf } from "../../config/index.js";
import type { Factory, Mixer } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { decoding } from "./shared.js";

/**
 * MultiHeadLatentAttention of @x/attention: the keys are those that the package declares. The layer's encoding rotates the
 * `ropeDim` features; DeepSeek's is `{ "type": "rope", "layout": "interleaved" }`.
 */
export const mlaMixer: Factory<Mixer> = (spec, weights) => {
  const { model, name, encoding } = weights;
  const who = `${name}: mla`;
  const { schema } = MultiHeadLatentAttention;
  const config = configOf(who, schema, spec, { dim: model.dim }, ["ropeBase"]) as MlaConfig;
  const parameters = new ParameterSet(weights).planned(MultiHeadLatentAttention.plan(config));
  const { numHeads, ropeDim: headDim } = config;
  const position = encoding.attention?.(weights, { numHeads, numKvHeads: 1, headDim });
  if (position?.scores ?? position?.values)
    throw new ConfigError(who, "takes encodings that rotate queries and keys (rope), or none");
  const rope: Rotary = {
    applyQK: (q, k, { positionIds, seqLen, maxPositions = seqLen }) => {
      const turned = position?.rotate?.(q, k, { positionIds, seqLen, maxPositions });
      return turned ? [turned.q, turned.k] : [q, k];
    },
  };
  const layer = new MultiHeadLatentAttention(config, parameters, { rope, rmsNorm });
  return {
    forward: (x, context, state, residual) =>
      layer.forward(x, { residual, ...decoding(LatentCache, state, context) }),
    createState: ({ batch, maxLength }) => layer.createState({ batch, maxLength }),
    parameters: () => ({ ...layer.parameters(), ...position?.parameters() }),
  };
};
