import type { ComponentSpec } from "../../config/model_config.js";
import { yarnMscale, type RopeScaling } from "@x/positional";
import type { Family, FamilyConfig } from "../declaration/family.js";
import { gatedFfn, gluKind, rmsNorm, rope } from "../declaration/fragments.js";
import { LLAMA_DEFAULTS } from "../dense/llama.js";

/** With YaRN the scores have another factor; DeepSeek's own code has it, transformers 5.2 leaves it out for V2. */
function scoreScale(width: number, scaling: RopeScaling): number | undefined {
  if (scaling.type !== "yarn" || !scaling.mscaleAllDim) return undefined;
  return width ** -0.5 * yarnMscale(scaling.factor, scaling.mscaleAllDim) ** 2;
}

/** Multi-head latent attention. */
function latentAttention(f: FamilyConfig, position: ComponentSpec): ComponentSpec {
  const [nopeDim, ropeDim] = [f.integer("qk_nope_head_dim"), f.integer("qk_rope_head_dim")];
  const scale = scoreScale(nopeDim + ropeDim, position["scaling"] as RopeScaling);
  return {
    type: "mla",
    numHeads: f.integer("num_attention_heads"),
    nopeDim,
    ropeDim,
    vDim: f.integer("v_head_dim"),
    kvRank: f.integer("kv_lora_rank"),
    qRank: f.integer("q_lora_rank", 0, 0),
    bias: f.flag("attention_bias", false),
    ...(scale === undefined ? {} : { scale }),
  };
}

/** How many groups of experts there are, and how many of them a token may choose from. */
const groups = (f: FamilyConfig) => ({
  numGroups: f.integer("n_group"),
  topkGroups: f.integer("topk_group"),
});

/** The choice of experts, by the file's name of the method. */
const METHODS: Readonly<Record<string, (f: FamilyConfig) => object>> = {
  greedy: () => ({}),
  group_limited_greedy: (f) => ({ ...groups(f), groupScore: "max" }),
  noaux_tc: (f) => ({ ...groups(f), groupScore: "top2", correctionBias: true }),
};

function experts(f: FamilyConfig): ComponentSpec {
  const numExperts = f.integer("n_routed_experts");
  const topK = f.integer("num_experts_per_tok");
  if (topK > numExperts)
    f.fail("num_experts_per_tok", `is ${topK}; it must not exceed n_routed_experts, ${numExperts}`);
  return {
    type: "deepseek",
    hiddenDim: f.integer("moe_intermediate_size"),
    numExperts,
    topK,
    numShared: f.integer("n_shared_experts", 0, 0),
    gluKind: gluKind(f),
    scoreFunction: f.oneOf("scoring_func", ["softmax", "sigmoid"]),
    normTopkProb: f.flag("norm_topk_prob", false),
    routedScalingFactor: f.number("routed_scaling_factor"),
    ...METHODS[f.oneOf("topk_method", Object.keys(METHODS))]!(f),
  };
}

const decoder: Family["decoder"] = (f) => {
  const firstDense = f.integer("first_k_dense_replace", 0, 0);
  const each = f.integer("moe_layer_freq");
  return {
    norm: rmsNorm(f),
    balanceLoss: f.number("aux_loss_alpha", 0),
    block: (layer) => {
      const position = rope(f);
      return {
        mixer: latentAttention(f, position),
        ffn: layer >= firstDense && layer % each === 0 ? experts(f) : gatedFfn(f),
        position,
      };
    },
  };
};

const DEEPSEEK_DEFAULTS = {
  ...LLAMA_DEFAULTS,
  vocab_size: 102_400,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  moe_layer_freq: 1,
  n_group: 1,
  topk_group: 1,
  // Rotary features are neighbours in these checkpoints.
  rope_interleave: true,
  bos_token_id: 100_000,
  eos_token_id: 100_001,
} as const;

export const deepseekV2: Family = {
  title: "DeepSeek-V2, V2-Lite, Coder-V2",
  defaults: {
    ...DEEPSEEK_DEFAULTS,
    q_lora_rank: 1536,
    first_k_dense_replace: 0,
    moe_intermediate_size: 1407,
    n_routed_experts: 64,
    num_experts_per_tok: 6,
    n_shared_experts: 2,
    routed_scaling_factor: 1,
    scoring_func: "softmax",
    topk_method: "greedy",
    norm_topk_prob: false,
  },
  nullable: ["q_lora_rank", "n_shared_experts"],
  decoder,
};

export const deepseekV3: Family = {
  title: "DeepSeek-V3, V3.1, R1",
  defaults: {
    ...DEEPSEEK_DEFAULTS,
    vocab_size: 129_280,
    hidden_size: 7168,
    intermediate_size: 18_432,
    num_hidden_layers: 61,
    num_attention_heads: 128,
    max_position_embeddings: 4096,
    q_lora_rank: 1536,
    first_k_dense_replace: 3,
    moe_intermediate_size: 2048,
    n_routed_experts: 256,
    num_experts_per_tok: 8,
    n_shared_experts: 1,
    n_group: 8,
    topk_group: 4,
    routed_scaling_factor: 2.5,
    scoring_func: "sigmoid",
    topk_method: "noaux_tc",
    norm_topk_prob: true,
    bos_token_id: 0,
    eos_token_id: 1,
  },
  nullable: ["q_lora_rank", "n_shared_experts"],
  decoder,
};
