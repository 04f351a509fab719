import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, gatedFfn, rmsNorm, rope } from "../declaration/fragments.js";

/** Keys of the Llama family and of those that follow it. */
export const LLAMA_DEFAULTS = {
  vocab_size: 32_000,
  hidden_size: 4096,
  intermediate_size: 11_008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  hidden_act: "silu",
  max_position_embeddings: 2048,
  norm_eps: 1e-6,
  rope_theta: 1e4,
  tie_word_embeddings: false,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: 1,
  eos_token_id: 2,
} as const;

/** Biases of all four projections of attention. */
export const attentionBias = (f: FamilyConfig): { qkvBias: boolean; outBias: boolean } => {
  const bias = f.flag("attention_bias", false);
  return { qkvBias: bias, outBias: bias };
};

export const llama: Family = {
  title: "Llama 1 to 3, TinyLlama, SmolLM 1 and 2",
  defaults: LLAMA_DEFAULTS,
  decoder: (f) => ({
    norm: rmsNorm(f),
    block: () => ({
      mixer: attention(f, attentionBias(f)),
      ffn: gatedFfn(f, f.flag("mlp_bias", false)),
      position: rope(f),
    }),
  }),
};
