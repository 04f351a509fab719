import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, fusedQkvByHead, layerNorm, plainFfn, QKV, rope } from "../declaration/fragments.js";

/**
 * The older form has one key head or as many as queries; the newer one (40B, 180B, Falcon 2) a number of its own.
 * The file's number counts in the newer form only.
 */
function keyHeads(f: FamilyConfig): FamilyConfig {
  const numHeads = f.integer("num_attention_heads");
  if (f.flag("new_decoder_architecture", false))
    return f.with({ num_key_value_heads: f.get("num_kv_heads") ?? numHeads });
  return f.with({ num_key_value_heads: f.flag("multi_query", true) ? 1 : numHeads });
}

/** The block of the newer form has two norms where it is parallel, unless the file says one. */
const twoNorms = (f: FamilyConfig): boolean =>
  f.flag("new_decoder_architecture", false) && f.integer("num_ln_in_parallel_attn", 2) === 2;

export const falcon: Family = {
  title: "Falcon 7B, 40B, 180B, Falcon 2",
  defaults: {
    vocab_size: 65_024,
    hidden_size: 4544,
    num_hidden_layers: 32,
    num_attention_heads: 71,
    max_position_embeddings: 2048,
    hidden_act: "gelu",
    norm_eps: 1e-5,
    rope_theta: 10_000,
    alibi: false,
    bias: false,
    multi_query: true,
    parallel_attn: true,
    new_decoder_architecture: false,
    tie_word_embeddings: true,
    bos_token_id: 11,
    eos_token_id: 11,
  },
  keys: { activation: "hidden_act", ffn_hidden_size: "intermediate_size" },
  nullable: ["num_kv_heads", "num_ln_in_parallel_attn"],
  decoder: (given) => {
    const f = keyHeads(given);
    const parallel = f.flag("parallel_attn", true) || f.flag("new_decoder_architecture", false);
    const bias = f.flag("bias", false);
    return {
      norm: layerNorm(f),
      block: () => ({
        mixer: attention(f, { qkvBias: bias, outBias: bias }),
        ffn: plainFfn(f, bias, f.integer("intermediate_size", 4 * f.integer("hidden_size"))),
        position: f.flag("alibi", false) ? { type: "alibi" } : rope(f),
        parallel: parallel ? (twoNorms(f) ? "ownNorms" : "oneNorm") : undefined,
      }),
    };
  },
  tensors: (given) => {
    const f = keyHeads(given);
    return {
      prefix: "transformer.",
      layers: "h",
      root: [
        ["word_embeddings", "embed_tokens"],
        ["ln_f", "norm"],
      ],
      layer: [
        ...(twoNorms(f)
          ? ([
              ["ln_attn", "input_layernorm"],
              ["ln_mlp", "post_attention_layernorm"],
            ] as const)
          : []),
        ["self_attention.query_key_value", QKV, { rows: fusedQkvByHead(f) }],
        ["self_attention.dense", "self_attn.o_proj"],
        ["mlp.dense_h_to_4h", "mlp.c_fc"],
        ["mlp.dense_4h_to_h", "mlp.c_proj"],
      ],
    };
  },
};
