import type { Family } from "../declaration/family.js";
import { attention, gatedFfn, layerNorm, rope } from "../declaration/fragments.js";

export const stablelm: Family = {
  title: "StableLM 2 and StableLM 3B",
  defaults: {
    vocab_size: 50_304,
    hidden_size: 2560,
    intermediate_size: 6912,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 32,
    hidden_act: "silu",
    max_position_embeddings: 4096,
    norm_eps: 1e-5,
    rope_theta: 10_000,
    partial_rotary_factor: 0.25,
    use_qkv_bias: false,
    qk_layernorm: false,
    use_parallel_residual: false,
    tie_word_embeddings: false,
    bos_token_id: 0,
    eos_token_id: 0,
  },
  decoder: (f) => ({
    norm: layerNorm(f),
    block: () => ({
      mixer: attention(f, {
        qkvBias: f.flag("use_qkv_bias", false),
        outBias: false,
        qkNorm: f.flag("qk_layernorm", false) ? { ...layerNorm(f, false), scope: "each" } : undefined,
      }),
      ffn: gatedFfn(f),
      position: rope(f),
      parallel: f.flag("use_parallel_residual", false) ? "oneNorm" : undefined,
    }),
  }),
};
