import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, gatedFfn, gemmaNorm, rope, windowOf, layerTypes } from "../declaration/fragments.js";
import { attentionBias } from "./llama.js";

const GEMMA_DEFAULTS = {
  num_hidden_layers: 26,
  hidden_size: 2304,
  intermediate_size: 9216,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  hidden_act: "gelu_pytorch_tanh",
  norm_eps: 1e-6,
  rope_theta: 10_000,
  query_pre_attn_scalar: 256,
  sliding_window: 4096,
  attention_bias: false,
  tie_word_embeddings: true,
  bos_token_id: 2,
  eos_token_id: 1,
} as const;

const SOFTCAPS = ["attn_logit_softcapping", "final_logit_softcapping"];

/** Which layers have the window: as the file lists them, else by `otherwise`. */
function types(f: FamilyConfig, otherwise: (layer: number) => boolean): readonly string[] {
  return (
    layerTypes(f) ??
    Array.from({ length: f.numLayers }, (_, i) => (otherwise(i) ? "sliding_attention" : "full_attention"))
  );
}

/** Gemma's attention: queries are scaled by a number of the configuration. */
const gemmaAttention = (f: FamilyConfig, more: Readonly<Record<string, unknown>>) =>
  attention(f, {
    ...attentionBias(f),
    scale: f.number("query_pre_attn_scalar") ** -0.5,
    softcap: f.number("attn_logit_softcapping", 0),
    ...more,
  });

export const gemma2: Family = {
  title: "Gemma 2",
  defaults: {
    ...GEMMA_DEFAULTS,
    vocab_size: 256_000,
    max_position_embeddings: 8192,
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
  },
  nullable: SOFTCAPS,
  decoder: (f) => {
    const kinds = types(f, (layer) => layer % 2 === 0);
    const window = windowOf(f, (layer) => kinds[layer] === "sliding_attention");
    return {
      norm: gemmaNorm(f),
      embedScale: Math.sqrt(f.integer("hidden_size")),
      logitSoftcap: f.number("final_logit_softcapping", 0),
      block: (layer) => ({
        mixer: gemmaAttention(f, { window: window(layer) }),
        ffn: gatedFfn(f),
        placement: "sandwich",
        position: rope(f),
      }),
    };
  },
};

export const gemma3Text: Family = {
  title: "Gemma 3 (text)",
  defaults: {
    ...GEMMA_DEFAULTS,
    vocab_size: 262_208,
    max_position_embeddings: 131_072,
    rope_theta: 1e6,
    rope_local_base_freq: 10_000,
    sliding_window_pattern: 6,
  },
  keys: { _sliding_window_pattern: "sliding_window_pattern" },
  nullable: SOFTCAPS,
  decoder: (f) => {
    const each = f.integer("sliding_window_pattern");
    const kinds = types(f, (layer) => (layer + 1) % each !== 0);
    const window = windowOf(f, (layer) => kinds[layer] === "sliding_attention");
    return {
      norm: gemmaNorm(f),
      embedScale: Math.sqrt(f.integer("hidden_size")),
      logitSoftcap: f.number("final_logit_softcapping", 0),
      block: (layer) => ({
        mixer: gemmaAttention(f, { window: window(layer), qkNorm: gemmaNorm(f) }),
        ffn: gatedFfn(f),
        placement: "sandwich",
        position: rope(f, kinds[layer]),
      }),
    };
  },
};
