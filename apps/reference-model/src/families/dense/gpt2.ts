import type { Family } from "../declaration/family.js";
import { attention, fusedQkv, layerNorm, plainFfn, QKV } from "../declaration/fragments.js";

export const gpt2: Family = {
  title: "GPT-2, DistilGPT-2",
  defaults: {
    vocab_size: 50_257,
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    max_position_embeddings: 1024,
    hidden_act: "gelu_new",
    norm_eps: 1e-5,
    scale_attn_weights: true,
    scale_attn_by_inverse_layer_idx: false,
    tie_word_embeddings: true,
    bos_token_id: 50_256,
    eos_token_id: 50_256,
  },
  keys: { n_positions: "max_position_embeddings", n_inner: "intermediate_size" },
  decoder: (f) => ({
    norm: layerNorm(f),
    block: (layer) => {
      const scaled = f.flag("scale_attn_weights", true) ? undefined : 1;
      const byLayer = f.flag("scale_attn_by_inverse_layer_idx", false);
      const mixer = attention(f, { qkvBias: true, outBias: true, scale: scaled });
      const scale = (scaled ?? Number(mixer["headDim"]) ** -0.5) / (layer + 1);
      return {
        mixer: byLayer ? { ...mixer, scale } : mixer,
        ffn: plainFfn(f, true, f.integer("intermediate_size", 4 * f.integer("hidden_size"))),
        position: { type: "learned" },
      };
    },
  }),
  tensors: (f) => ({
    prefix: "transformer.",
    layers: "h",
    root: [
      ["wte", "embed_tokens"],
      ["wpe", "positions.0"],
      ["ln_f", "norm"],
    ],
    layer: [
      ["ln_1", "input_layernorm"],
      ["ln_2", "post_attention_layernorm"],
      ["attn.c_attn", QKV, { rows: fusedQkv(f), transposed: true }],
      ["attn.c_proj", "self_attn.o_proj", { transposed: true }],
      ["mlp.c_fc", "mlp.c_fc", { transposed: true }],
      ["mlp.c_proj", "mlp.c_proj", { transposed: true }],
    ],
    computed: ["attn.bias", "attn.masked_bias"],
  }),
};
