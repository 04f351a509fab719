import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, gatedFfn, rmsNorm, rope, windows } from "../declaration/fragments.js";
import { attentionBias, LLAMA_DEFAULTS } from "./llama.js";

export const QWEN_DEFAULTS = {
  ...LLAMA_DEFAULTS,
  vocab_size: 151_936,
  intermediate_size: 22_016,
  max_position_embeddings: 32_768,
  num_key_value_heads: 32,
  use_sliding_window: false,
  sliding_window: 4096,
  max_window_layers: 28,
  bos_token_id: undefined,
  eos_token_id: undefined,
} as const;

/** With use_sliding_window, layers from max_window_layers on have the window. */
export const qwenWindows = (f: FamilyConfig): ((layer: number) => number | undefined) => {
  const first = f.integer("max_window_layers", undefined, 0);
  const used = f.flag("use_sliding_window", false);
  return windows(f, (layer) => used && layer >= first);
};

export const qwen2: Family = {
  title: "Qwen 2 and 2.5",
  defaults: QWEN_DEFAULTS,
  decoder: (f) => {
    const window = qwenWindows(f);
    return {
      norm: rmsNorm(f),
      block: (layer) => ({
        mixer: attention(f, { qkvBias: true, outBias: false, window: window(layer) }),
        ffn: gatedFfn(f, f.flag("mlp_bias", false)),
        position: rope(f),
      }),
    };
  },
};

export const qwen3: Family = {
  title: "Qwen 3",
  defaults: { ...QWEN_DEFAULTS, head_dim: 128 },
  decoder: (f) => {
    const window = qwenWindows(f);
    return {
      norm: rmsNorm(f),
      block: (layer) => ({
        mixer: attention(f, { ...attentionBias(f), qkNorm: rmsNorm(f), window: window(layer) }),
        ffn: gatedFfn(f, f.flag("mlp_bias", false)),
        position: rope(f),
      }),
    };
  },
};
