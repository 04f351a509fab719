import type { Family } from "../declaration/family.js";
import { attention, fusedQkvByHead, layerNorm, plainFfn, QKV, rope } from "../declaration/fragments.js";

export const gptNeoX: Family = {
  title: "GPT-NeoX 20B, Pythia",
  defaults: {
    vocab_size: 50_432,
    hidden_size: 6144,
    num_hidden_layers: 44,
    num_attention_heads: 64,
    intermediate_size: 24_576,
    max_position_embeddings: 2048,
    hidden_act: "gelu",
    norm_eps: 1e-5,
    rotary_pct: 0.25,
    rotary_emb_base: 10_000,
    use_parallel_residual: true,
    attention_bias: true,
    tie_word_embeddings: false,
    bos_token_id: 0,
    eos_token_id: 2,
  },
  decoder: (f) => ({
    norm: layerNorm(f),
    block: () => ({
      mixer: attention(f, {
        qkvBias: f.flag("attention_bias", true),
        outBias: f.flag("attention_bias", true),
      }),
      ffn: plainFfn(f, true),
      position: rope(f),
      parallel: f.flag("use_parallel_residual", true) ? "ownNorms" : undefined,
    }),
  }),
  tensors: (f) => ({
    prefix: "gpt_neox.",
    root: [
      ["embed_in", "embed_tokens"],
      ["final_layer_norm", "norm"],
    ],
    layer: [
      ["attention.query_key_value", QKV, { rows: fusedQkvByHead(f) }],
      ["attention.dense", "self_attn.o_proj"],
      ["mlp.dense_h_to_4h", "mlp.c_fc"],
      ["mlp.dense_4h_to_h", "mlp.c_proj"],
    ],
    head: "embed_out",
    computed: ["attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"],
  }),
};
