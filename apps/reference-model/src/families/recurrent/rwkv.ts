import type { Family } from "../declaration/family.js";
import { layerNorm } from "../declaration/fragments.js";

export const rwkv: Family = {
  title: "RWKV-4",
  defaults: {
    vocab_size: 50_277,
    hidden_size: 4096,
    num_hidden_layers: 32,
    norm_eps: 1e-5,
    max_position_embeddings: 1024,
    // It scales weights in half precision and leaves the result as it is.
    rescale_every: 6,
    tie_word_embeddings: false,
    bos_token_id: 0,
    eos_token_id: 0,
  },
  keys: { context_length: "max_position_embeddings" },
  nullable: ["attention_hidden_size", "intermediate_size"],
  decoder: (f) => {
    const dim = f.integer("hidden_size");
    return {
      norm: layerNorm(f),
      embedNorm: layerNorm(f),
      block: () => ({
        mixer: { type: "rwkv4", attentionDim: f.integer("attention_hidden_size", dim) },
        ffn: { type: "rwkv4ChannelMix", ffnDim: f.integer("intermediate_size", 4 * dim) },
        position: { type: "none" },
      }),
    };
  },
  tensors: () => ({
    prefix: "rwkv.",
    layers: "blocks",
    root: [
      ["embeddings", "embed_tokens"],
      ["blocks.0.pre_ln", "embed_norm"],
      ["ln_out", "norm"],
    ],
    layer: [
      ["ln1", "input_layernorm"],
      ["attention", "self_attn"],
      ["ln2", "post_attention_layernorm"],
      ["feed_forward", "mlp"],
    ],
    head: "head",
  }),
};
