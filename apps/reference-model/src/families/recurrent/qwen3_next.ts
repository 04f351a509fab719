import type { Family, FamilyConfig } from "../declaration/family.js";
import {
  attention,
  gatedFfn,
  gemmaNorm,
  gluKind,
  heads,
  inGroups,
  layerTypes,
  rope,
} from "../declaration/fragments.js";
import { attentionBias } from "../dense/llama.js";
import { QWEN_DEFAULTS } from "../dense/qwen.js";
import { expertCounts } from "../experts/mixtral.js";
import { sparseLayers } from "../experts/qwen3_moe.js";

const KINDS = ["linear_attention", "full_attention"];

/** The layers with softmax attention: as the file lists them, else every full_attention_interval-th. */
function attends(f: FamilyConfig): (layer: number) => boolean {
  const types = layerTypes(f, KINDS);
  const each = f.integer("full_attention_interval");
  return (layer) => (types ? types[layer] === "full_attention" : (layer + 1) % each === 0);
}

export const qwen3Next: Family = {
  title: "Qwen3-Next",
  defaults: {
    ...QWEN_DEFAULTS,
    hidden_size: 2048,
    intermediate_size: 5632,
    num_hidden_layers: 48,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    head_dim: 256,
    partial_rotary_factor: 0.25,
    full_attention_interval: 4,
    linear_conv_kernel_dim: 4,
    linear_key_head_dim: 128,
    linear_value_head_dim: 128,
    linear_num_key_heads: 16,
    linear_num_value_heads: 32,
    decoder_sparse_step: 1,
    moe_intermediate_size: 512,
    shared_expert_intermediate_size: 512,
    num_experts_per_tok: 10,
    num_local_experts: 512,
    norm_topk_prob: true,
    router_aux_loss_coef: 0.001,
  },
  decoder: (f) => {
    const full = attends(f);
    const sparse = sparseLayers(f);
    return {
      norm: gemmaNorm(f),
      balanceLoss: f.number("router_aux_loss_coef", 0),
      block: (layer) => ({
        mixer: full(layer)
          ? attention(f, { ...attentionBias(f), qkNorm: gemmaNorm(f), outputGate: "element" })
          : {
              type: "gatedDeltaNet",
              projections: "byKeyHead",
              numKeyHeads: f.integer("linear_num_key_heads"),
              numValueHeads: f.integer("linear_num_value_heads"),
              keyDim: f.integer("linear_key_head_dim"),
              valueDim: f.integer("linear_value_head_dim"),
              convSize: f.integer("linear_conv_kernel_dim"),
              normEps: f.number("norm_eps"),
            },
        ffn: sparse(layer)
          ? {
              type: "qwen2Moe",
              hiddenDim: f.integer("moe_intermediate_size"),
              sharedDim: f.integer("shared_expert_intermediate_size"),
              ...expertCounts(f),
              gluKind: gluKind(f),
              normTopkProb: f.flag("norm_topk_prob", true),
            }
          : gatedFfn(f),
        position: full(layer) ? rope(f) : { type: "none" },
      }),
    };
  },
  tensors: (f) => {
    const { numHeads, headDim } = heads(f);
    return {
      layer: [
        ["linear_attn.in_proj_qkvz", "self_attn.in_proj_qkvz"],
        ["linear_attn.in_proj_ba", "self_attn.in_proj_ba"],
        ["linear_attn.conv1d", "self_attn.conv1d"],
        ["linear_attn.A_log", "self_attn.A_log"],
        ["linear_attn.dt_bias", "self_attn.dt_bias"],
        ["linear_attn.norm", "self_attn.norm"],
        ["linear_attn.out_proj", "self_attn.out_proj"],
        [
          "self_attn.q_proj",
          ["self_attn.q_proj", "self_attn.gate_proj"],
          { rows: inGroups(numHeads, headDim, headDim) },
        ],
      ],
    };
  },
};
