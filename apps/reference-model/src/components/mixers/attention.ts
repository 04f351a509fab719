import { checkDecodable, KVCache, MultiHeadAttention, type MultiHeadAttentionConfig } from "@x/attention";
import { configOf, type ComponentSpec } from "../../config/index.js";
import type { AttentionEncoding, Factory, Mixer, Weights } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { queryKeyNorms } from "./qk_norm.js";
import { decoding } from "./shared.js";

/** A layer of the package, and what its encoding does in it. */
interface AttentionLayer {
  readonly layer: MultiHeadAttention;
  readonly position: AttentionEncoding | undefined;
}

/**
 * MultiHeadAttention of @x/attention with the layer's encoding: the keys are those that the package declares, and
 * `qkNorm`, a norm of queries and keys, see `queryKeyNorms`.
 *
 * @throws ConfigError
 */
export function attentionLayer(
  { qkNorm, ...spec }: ComponentSpec,
  weights: Weights,
  causal: boolean,
): AttentionLayer {
  const { model, name, encoding, innerNorm } = weights;
  const who = `${name}: attention`;
  const own = configOf(who, MultiHeadAttention.schema, spec, { dim: model.dim }, ["contextDim", "causal"]);
  const config = { ...own, causal } as MultiHeadAttentionConfig;
  const plan = MultiHeadAttention.plan(config);
  const { pattern, numHeads, numKvHeads = numHeads, headDim = model.dim / numHeads } = config;
  if (causal && pattern && !("wgsl" in pattern)) checkDecodable(who, pattern);
  const heads = { numHeads, numKvHeads, headDim };
  const norms = qkNorm == null ? {} : queryKeyNorms(qkNorm, weights, heads);
  const parameters = new ParameterSet(weights).planned(plan);
  const inner_attn_ln = innerNorm?.("inner_attn_ln", numHeads * headDim);
  const position = encoding.attention?.(weights, { ...heads, bidirectional: !causal });
  return {
    layer: new MultiHeadAttention(config, parameters, { ...norms, inner_attn_ln, position }),
    position,
  };
}

/** Causal attention of tokens to those before them. */
export const attentionMixer: Factory<Mixer> = (spec, weights) => {
  const { layer, position } = attentionLayer(spec, weights, true);
  return {
    forward: (x, context, state, residual) =>
      layer.forward(x, { residual, normOptions: context, ...decoding(KVCache, state, context) }),
    createState: ({ batch, maxLength, maxChunk }) => layer.createState({ batch, maxLength, maxChunk }),
    parameters: () => ({ ...layer.parameters(), ...position?.parameters() }),
    buffers: () => layer.buffers(),
  };
};
