import type { Family } from "../declaration/family.js";
import { attention, fusedQkvByHead, layerNorm, plainFfn, QKV } from "../declaration/fragments.js";

export const bloom: Family = {
  title: "BLOOM, BLOOMZ",
  defaults: {
    vocab_size: 250_880,
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 8,
    // ALiBi has no last position; the models were trained on texts of this length.
    max_position_embeddings: 2048,
    hidden_act: "gelu_pytorch_tanh",
    norm_eps: 1e-5,
    apply_residual_connection_post_layernorm: false,
    tie_word_embeddings: true,
    bos_token_id: 1,
    eos_token_id: 2,
  },
  keys: { n_embed: "hidden_size", seq_length: "max_position_embeddings" },
  decoder: (f) => {
    if (f.flag("apply_residual_connection_post_layernorm", false))
      f.fail(
        "apply_residual_connection_post_layernorm",
        "is true; no published model has it, and it must be false",
      );
    return {
      norm: layerNorm(f),
      embedNorm: layerNorm(f),
      block: () => ({
        mixer: attention(f, { qkvBias: true, outBias: true }),
        ffn: plainFfn(f, true, 4 * f.integer("hidden_size")),
        position: { type: "alibi" },
      }),
    };
  },
  tensors: (f) => ({
    prefix: "transformer.",
    layers: "h",
    root: [
      ["word_embeddings", "embed_tokens"],
      ["word_embeddings_layernorm", "embed_norm"],
      ["ln_f", "norm"],
    ],
    layer: [
      ["self_attention.query_key_value", QKV, { rows: fusedQkvByHead(f) }],
      ["self_attention.dense", "self_attn.o_proj"],
      ["mlp.dense_h_to_4h", "mlp.c_fc"],
      ["mlp.dense_4h_to_h", "mlp.c_proj"],
    ],
  }),
};
