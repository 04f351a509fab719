import { EXPERTS } from "../change.js";
import {
  attentionTensors,
  DECODER_KEYS,
  GATED_TENSORS,
  outer,
  PRE_NORMS,
  SILU,
  tensor,
  u32,
  type Architecture,
} from "./architecture.js";
import { keyLength } from "./llama.js";
import { headDim, headSize, ropeConfig, ropeMetadata } from "./rope.js";

const DENSE = { ...outer(), ...attentionTensors(false), ...GATED_TENSORS, ...PRE_NORMS };

const AT = "model.layers.{n}.self_attn";
const QK_NORMS = {
  "blk.{n}.attn_q_norm.weight": tensor(`${AT}.q_norm.weight`),
  "blk.{n}.attn_k_norm.weight": tensor(`${AT}.k_norm.weight`),
};

export const qwen2: Architecture = {
  name: "qwen2",
  families: { qwen2: "Qwen2ForCausalLM" },
  keys: DECODER_KEYS,
  tensors: DENSE,
  fixed: { hidden_act: SILU, use_sliding_window: [false] },
  config: async (facts) => ({
    ...(await ropeConfig(facts)),
    ...headDim(facts),
    use_sliding_window: false,
  }),
  metadata: (config) => ({ ...ropeMetadata(config), ...keyLength(config) }),
};

export const qwen3: Architecture = {
  name: "qwen3",
  families: { qwen3: "Qwen3ForCausalLM" },
  keys: DECODER_KEYS,
  tensors: { ...DENSE, ...QK_NORMS },
  fixed: { hidden_act: SILU, use_sliding_window: [false] },
  config: async (facts) => ({
    ...(await ropeConfig(facts)),
    head_dim: headSize(facts),
    attention_bias: facts.layersWith("attn_q.bias").length > 0,
    use_sliding_window: false,
  }),
  metadata: (config) => ({ ...ropeMetadata(config), ...keyLength({ head_dim: 128, ...config }) }),
};

const MLP = "model.layers.{n}.mlp";

/** Its experts' shares are always renormalised; a layer without a router is dense. */
export const qwen3moe: Architecture = {
  name: "qwen3moe",
  families: { qwen3_moe: "Qwen3MoeForCausalLM" },
  keys: [
    ...DECODER_KEYS,
    u32("expert_count", "num_experts"),
    u32("expert_used_count", "num_experts_per_tok"),
    u32("expert_feed_forward_length", "moe_intermediate_size"),
  ],
  tensors: {
    ...qwen3.tensors,
    "blk.{n}.ffn_gate_inp.weight": tensor(`${MLP}.gate.weight`),
    "blk.{n}.ffn_gate_exps.weight": tensor(`${MLP}.experts.{e}.gate_proj.weight`, EXPERTS),
    "blk.{n}.ffn_up_exps.weight": tensor(`${MLP}.experts.{e}.up_proj.weight`, EXPERTS),
    "blk.{n}.ffn_down_exps.weight": tensor(`${MLP}.experts.{e}.down_proj.weight`, EXPERTS),
  },
  fixed: { hidden_act: SILU, use_sliding_window: [false], norm_topk_prob: [true] },
  differs: ({ mlp_only_layers: dense, decoder_sparse_step: step = 1 }) =>
    step !== 1 || (Array.isArray(dense) && dense.length > 0)
      ? ["llama.cpp refuses this architecture with dense layers"]
      : [],
  config: async (facts) => ({
    ...(await qwen3.config(facts)),
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: facts.layersWith("ffn_gate.weight"),
  }),
  metadata: (config) => ({ ...ropeMetadata(config), ...keyLength({ head_dim: 128, ...config }) }),
};
