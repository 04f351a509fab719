import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, gemmaNorm, gluKind, rope } from "../declaration/fragments.js";

const KINDS = ["recurrent", "attention"];

/** The kind of each block: the list is gone through again and again. */
function kinds(f: FamilyConfig): (layer: number) => string {
  const list = f.get("block_types");
  if (!Array.isArray(list) || list.length === 0 || !list.every((kind) => KINDS.includes(kind as string)))
    return f.fail("block_types", `is ${JSON.stringify(list)}; it must list some of ${KINDS.join(", ")}`);
  return (layer) => list[layer % list.length] as string;
}

export const recurrentGemma: Family = {
  title: "RecurrentGemma (Griffin)",
  defaults: {
    vocab_size: 256_000,
    hidden_size: 2560,
    intermediate_size: 7680 * 2,
    num_hidden_layers: 26,
    num_attention_heads: 10,
    hidden_act: "gelu_pytorch_tanh",
    norm_eps: 1e-6,
    rope_theta: 10_000,
    partial_rotary_factor: 0.5,
    attention_window_size: 2048,
    attention_bias: false,
    conv1d_width: 4,
    logits_soft_cap: 30,
    block_types: ["recurrent", "recurrent", "attention"],
    // Blocks of a window and of a state have no last position; the models were trained on texts of this length.
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    bos_token_id: 2,
    eos_token_id: 1,
  },
  nullable: ["lru_width", "logits_soft_cap"],
  decoder: (f) => {
    const kind = kinds(f);
    const dim = f.integer("hidden_size");
    return {
      norm: gemmaNorm(f),
      embedScale: Math.sqrt(dim),
      logitSoftcap: f.number("logits_soft_cap", 0),
      block: (layer) => ({
        mixer:
          kind(layer) === "attention"
            ? attention(f, {
                qkvBias: f.flag("attention_bias", false),
                outBias: true,
                window: f.integer("attention_window_size"),
              })
            : {
                type: "griffin",
                lruWidth: f.integer("lru_width", dim),
                numBlocks: f.integer("num_attention_heads"),
                convSize: f.integer("conv1d_width"),
                wholeFirst: true,
              },
        ffn: {
          type: "glu",
          kind: gluKind(f),
          hiddenDim: Math.floor(f.integer("intermediate_size") / 2),
          bias: true,
        },
        position: kind(layer) === "attention" ? rope(f) : { type: "none" },
      }),
    };
  },
  tensors: () => ({
    root: [["final_norm", "norm"]],
    layer: [
      ["temporal_pre_norm", "input_layernorm"],
      ["temporal_block", "self_attn"],
      ["channel_pre_norm", "post_attention_layernorm"],
      ["mlp_block", "mlp"],
    ],
  }),
};
