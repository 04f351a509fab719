import { EXPERTS } from "../change.js";
import {
  attentionTensors,
  count,
  DECODER_KEYS,
  GATED_TENSORS,
  outer,
  PRE_NORMS,
  SILU,
  tensor,
  type Architecture,
  type GgufFacts,
  type Json,
} from "./architecture.js";
import { headDim, ropeConfig, ropeMetadata } from "./rope.js";

const MOE = "model.layers.{n}.block_sparse_moe";

/** Llama and Mistral; with experts Mixtral. */
export const llama: Architecture = {
  name: "llama",
  families: { llama: "LlamaForCausalLM", mistral: "MistralForCausalLM", mixtral: "MixtralForCausalLM" },
  keys: DECODER_KEYS,
  tensors: {
    ...outer(),
    ...attentionTensors(true),
    ...GATED_TENSORS,
    ...PRE_NORMS,
    "blk.{n}.ffn_gate_inp.weight": tensor(`${MOE}.gate.weight`),
    "blk.{n}.ffn_gate_exps.weight": tensor(`${MOE}.experts.{e}.w1.weight`, EXPERTS),
    "blk.{n}.ffn_down_exps.weight": tensor(`${MOE}.experts.{e}.w2.weight`, EXPERTS),
    "blk.{n}.ffn_up_exps.weight": tensor(`${MOE}.experts.{e}.w3.weight`, EXPERTS),
  },
  fixed: { hidden_act: SILU },
  differs: ({ sliding_window: window }) =>
    typeof window === "number"
      ? [
          `llama.cpp does not read the window of this architecture: texts of more than ${window} tokens differ there`,
        ]
      : [],
  config: async (facts) => ({
    ...(await ropeConfig(facts)),
    ...headDim(facts),
    ...family(facts),
  }),
  metadata: (config) => {
    const { num_local_experts: experts, num_experts_per_tok: used, sliding_window: window } = config;
    const moe = config["model_type"] === "mixtral";
    return {
      ...ropeMetadata(config),
      ...keyLength(config),
      ...(moe ? { expert_count: count(experts as number), expert_used_count: count(used as number) } : {}),
      ...(typeof window === "number" ? { "attention.sliding_window": count(window) } : {}),
    };
  },
};

/** The size of a head in metadata, where it does not follow from width and heads. */
export function keyLength(config: Json): ReturnType<Architecture["metadata"]> {
  const { head_dim: size } = config;
  if (typeof size !== "number") return {};
  return { "attention.key_length": count(size), "attention.value_length": count(size) };
}

function family(facts: GgufFacts): Json {
  const { fields } = facts;
  const experts = fields.optionalInteger("expert_count", 0) ?? 0;
  const window = fields.optionalInteger("attention.sliding_window", 0) ?? 0;
  if (experts > 0)
    return {
      model_type: "mixtral",
      num_local_experts: experts,
      num_experts_per_tok: fields.integer("expert_used_count"),
      sliding_window: window > 0 ? window : null,
    };
  if (window > 0) return { model_type: "mistral", sliding_window: window };
  return {
    model_type: "llama",
    attention_bias: facts.layersWith("attn_q.bias").length > 0,
    mlp_bias: facts.layersWith("ffn_up.bias").length > 0,
  };
}
