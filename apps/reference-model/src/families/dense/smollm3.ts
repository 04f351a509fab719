import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, gatedFfn, rmsNorm, rope, windows } from "../declaration/fragments.js";
import { attentionBias, LLAMA_DEFAULTS } from "./llama.js";

/** The layers with rotations: no_rope_layers lists 1 for them; without the list, all but every fourth. */
function rotated(f: FamilyConfig): (layer: number) => boolean {
  const each = f.integer("no_rope_layer_interval");
  const list = f.get("no_rope_layers");
  if (list === undefined) return (layer) => (layer + 1) % each !== 0;
  if (!Array.isArray(list) || list.length !== f.numLayers || !list.every((n) => n === 0 || n === 1))
    return f.fail("no_rope_layers", `must list ${f.numLayers} of 0 and 1`);
  return (layer) => list[layer] === 1;
}

export const smollm3: Family = {
  title: "SmolLM3",
  defaults: {
    ...LLAMA_DEFAULTS,
    vocab_size: 128_256,
    hidden_size: 2048,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: 4,
    max_position_embeddings: 32_768,
    rope_theta: 2e6,
    use_sliding_window: false,
    no_rope_layer_interval: 4,
    tie_word_embeddings: true,
    bos_token_id: 128_000,
    eos_token_id: 128_001,
  },
  decoder: (f) => {
    const turns = rotated(f);
    const slides = f.flag("use_sliding_window", false);
    const window = windows(f, (layer) => slides && !turns(layer));
    return {
      norm: rmsNorm(f),
      block: (layer) => ({
        mixer: attention(f, { ...attentionBias(f), window: slides ? window(layer) : undefined }),
        ffn: gatedFfn(f, f.flag("mlp_bias", false)),
        position: turns(layer) ? rope(f) : { type: "none" },
      }),
    };
  },
};
