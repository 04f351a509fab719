import type { Family } from "../declaration/family.js";
import { attention, gatedFfn, rmsNorm, rope, windows } from "../declaration/fragments.js";
import { attentionBias, LLAMA_DEFAULTS } from "./llama.js";

export const MISTRAL_DEFAULTS = {
  ...LLAMA_DEFAULTS,
  intermediate_size: 14_336,
  max_position_embeddings: 131_072,
  num_key_value_heads: 8,
} as const;

export const mistral: Family = {
  title: "Mistral 7B, Ministral",
  defaults: { ...MISTRAL_DEFAULTS, sliding_window: 4096 },
  decoder: (f) => {
    const window = windows(f, () => true);
    return {
      norm: rmsNorm(f),
      block: (layer) => ({
        mixer: attention(f, { ...attentionBias(f), window: window(layer) }),
        ffn: gatedFfn(f, f.flag("mlp_bias", false)),
        position: rope(f),
      }),
    };
  },
};
