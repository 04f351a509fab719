import type { Family } from "../declaration/family.js";
import { attention, inGroups, rmsNorm, rope, windows } from "../declaration/fragments.js";
import { LLAMA_DEFAULTS } from "../dense/llama.js";
import { expertCounts } from "./mixtral.js";

export const gptOss: Family = {
  title: "gpt-oss 20B and 120B",
  defaults: {
    ...LLAMA_DEFAULTS,
    vocab_size: 201_088,
    hidden_size: 2880,
    intermediate_size: 2880,
    num_hidden_layers: 36,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    head_dim: 64,
    num_local_experts: 128,
    num_experts_per_tok: 4,
    max_position_embeddings: 131_072,
    norm_eps: 1e-5,
    rope_theta: 150_000,
    rope_scaling: {
      rope_type: "yarn",
      factor: 32,
      beta_fast: 32,
      beta_slow: 1,
      truncate: false,
      original_max_position_embeddings: 4096,
    },
    sliding_window: 128,
    attention_bias: true,
    swiglu_limit: 7,
    router_aux_loss_coef: 0.9,
    bos_token_id: undefined,
    eos_token_id: 200_002,
  },
  keys: { experts_per_token: "num_experts_per_tok" },
  nullable: ["rope_scaling"],
  decoder: (f) => {
    const window = windows(f, (layer) => layer % 2 === 0);
    const bias = f.flag("attention_bias", true);
    return {
      norm: rmsNorm(f),
      balanceLoss: f.number("router_aux_loss_coef", 0),
      block: (layer) => ({
        mixer: attention(f, { qkvBias: bias, outBias: bias, sinks: true, window: window(layer) }),
        ffn: {
          type: "gptOss",
          hiddenDim: f.integer("intermediate_size"),
          ...expertCounts(f),
          limit: f.number("swiglu_limit"),
        },
        position: rope(f),
      }),
    };
  },
  tensors: (f) => {
    const alternating = inGroups(f.integer("intermediate_size"), 1, 1);
    const both = ["mlp.experts.gate_proj", "mlp.experts.up_proj"];
    return {
      layer: [
        ["mlp.experts.gate_up_proj", both, { rows: alternating, transposed: true }],
        ["mlp.experts.gate_up_proj_bias", both.map((name) => `${name}_bias`), { rows: alternating, axis: 1 }],
        ["mlp.experts.down_proj", "mlp.experts.down_proj", { transposed: true }],
        // MXFP4 blocks lie as [experts, out, in].
        ["mlp.experts.gate_up_proj_blocks", both, { rows: alternating }],
        ["mlp.experts.down_proj_blocks", "mlp.experts.down_proj"],
      ],
    };
  },
};
