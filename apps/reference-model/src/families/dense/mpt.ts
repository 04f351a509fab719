import type { Fields } from "../../config/fields.js";
import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, fusedQkv, layerNorm, plainFfn, QKV } from "../declaration/fragments.js";

/** The nested configuration of MPT's attention, with its defaults. */
const attn = (f: FamilyConfig): Fields =>
  f.below("attn_config", {
    alibi: true,
    alibi_bias_max: 8,
    attn_type: "multihead_attention",
    qk_ln: false,
    prefix_lm: false,
  });

export const mpt: Family = {
  title: "MPT 7B and 30B",
  defaults: {
    vocab_size: 50_368,
    hidden_size: 2048,
    num_hidden_layers: 24,
    num_attention_heads: 16,
    expansion_ratio: 4,
    max_position_embeddings: 2048,
    hidden_act: "gelu",
    norm_eps: 1e-5,
    no_bias: true,
    tie_word_embeddings: true,
  },
  keys: {
    d_model: "hidden_size",
    n_heads: "num_attention_heads",
    n_layers: "num_hidden_layers",
    max_seq_len: "max_position_embeddings",
  },
  nullable: ["logit_scale"],
  decoder: (f) => {
    const a = attn(f);
    a.oneOf("attn_type", ["multihead_attention"]);
    for (const key of ["qk_ln", "prefix_lm"])
      if (a.flag(key, false)) a.fail(key, "is true; it must be false");
    const scale = a.get("softmax_scale") === undefined ? undefined : a.number("softmax_scale");
    const clip = a.get("clip_qkv") === undefined ? undefined : a.number("clip_qkv");
    const bias = !f.flag("no_bias", true);
    const logitScale = f.get("logit_scale");
    const maxBias = a.number("alibi_bias_max");
    return {
      norm: layerNorm(f, bias),
      logitScale:
        logitScale === undefined
          ? 1
          : logitScale === "inv_sqrt_d_model"
            ? f.integer("hidden_size") ** -0.5
            : f.number("logit_scale"),
      block: () => ({
        mixer: attention(f, { qkvBias: bias, outBias: bias, scale, qkvClip: clip }),
        ffn: plainFfn(f, bias, f.integer("expansion_ratio") * f.integer("hidden_size")),
        position: a.flag("alibi", true) ? { type: "alibi", maxBias } : { type: "learned" },
      }),
    };
  },
  tensors: (f) => ({
    prefix: "transformer.",
    layers: "blocks",
    root: [
      ["wte", "embed_tokens"],
      ["wpe", "positions.0"],
      ["norm_f", "norm"],
    ],
    layer: [
      ["norm_1", "input_layernorm"],
      ["norm_2", "post_attention_layernorm"],
      ["attn.Wqkv", QKV, { rows: fusedQkv(f) }],
      ["attn.out_proj", "self_attn.o_proj"],
      ["ffn.up_proj", "mlp.c_fc"],
      ["ffn.down_proj", "mlp.c_proj"],
    ],
  }),
};
