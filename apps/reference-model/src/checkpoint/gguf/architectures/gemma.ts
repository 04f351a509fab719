import { ONE_PLUS } from "../change.js";
import {
  attentionTensors,
  count,
  DECODER_KEYS,
  f32,
  GATED_TENSORS,
  outer,
  TANH_GELU,
  tensor,
  u32,
  real,
  type Architecture,
  type GgufFacts,
  type Json,
} from "./architecture.js";
import { keyLength } from "./llama.js";
import { headSize, ropeConfig, ropeMetadata } from "./rope.js";

const LAYER = "model.layers.{n}";
const TENSORS = {
  ...outer(ONE_PLUS),
  ...attentionTensors(false),
  ...GATED_TENSORS,
  "blk.{n}.attn_norm.weight": tensor(`${LAYER}.input_layernorm.weight`, ONE_PLUS),
  "blk.{n}.post_attention_norm.weight": tensor(`${LAYER}.post_attention_layernorm.weight`, ONE_PLUS),
  "blk.{n}.ffn_norm.weight": tensor(`${LAYER}.pre_feedforward_layernorm.weight`, ONE_PLUS),
  "blk.{n}.post_ffw_norm.weight": tensor(`${LAYER}.post_feedforward_layernorm.weight`, ONE_PLUS),
};

/** The window of a file that has none covers the context. */
const COMMON = [...DECODER_KEYS, u32("attention.sliding_window", "sliding_window")];

/** Layers of the 27 B models, whose scores are scaled by width / heads; llama.cpp knows them by these counts. */
const LARGE = { gemma2: 46, gemma3: 62 };

/** What the scores' scale follows from; GGUF has no key for it. */
function scalar(facts: GgufFacts, layers: number): Json {
  const { fields } = facts;
  const large = fields.integer("block_count") === layers;
  const width = fields.integer("embedding_length") / fields.integer("attention.head_count");
  // A power of a float32 has six digits that count.
  const given =
    fields.get("attention.scale") === undefined
      ? undefined
      : Number((fields.number("attention.scale") ** -2).toPrecision(6));
  return { query_pre_attn_scalar: given ?? (large ? width : headSize(facts)) };
}

/** What llama.cpp does not read of `query_pre_attn_scalar`. */
function scaleDiffers(config: Json, layers: number): string[] {
  const { query_pre_attn_scalar: given = 256, head_dim: size = 256, num_hidden_layers: count } = config;
  const width = (config["hidden_size"] as number) / (config["num_attention_heads"] as number);
  const computed = count === layers ? width : size;
  return given === computed
    ? []
    : [`llama.cpp scales the scores by ${String(computed)}^-0.5 and not by ${String(given)}^-0.5`];
}

const ACTIVATIONS = { hidden_activation: TANH_GELU, hidden_act: TANH_GELU };

export const gemma2: Architecture = {
  name: "gemma2",
  families: { gemma2: "Gemma2ForCausalLM" },
  keys: [
    ...COMMON,
    f32("attn_logit_softcapping", "attn_logit_softcapping"),
    f32("final_logit_softcapping", "final_logit_softcapping"),
  ],
  tensors: TENSORS,
  tied: true,
  fixed: ACTIVATIONS,
  differs: (config) => scaleDiffers(config, LARGE.gemma2),
  config: async (facts) => ({
    ...(await ropeConfig(facts)),
    ...scalar(facts, LARGE.gemma2),
    head_dim: headSize(facts),
    hidden_activation: "gelu_pytorch_tanh",
  }),
  metadata: (config) => ({
    ...ropeMetadata(config),
    ...keyLength({ head_dim: 256, ...config }),
    ...scale(config),
  }),
};

/** The scale of the scores where it does not follow from the size of a head; llama.cpp does not read it. */
function scale(config: Json): ReturnType<Architecture["metadata"]> {
  const { query_pre_attn_scalar: given = 256, head_dim: size = 256 } = config;
  return given === size ? {} : { "attention.scale": real((given as number) ** -0.5) };
}

const AT = "model.layers.{n}.self_attn";

/** Local layers have a base of their own; one of `sliding_window_pattern` layers, 6 in all public models, is global. */
export const gemma3: Architecture = {
  name: "gemma3",
  families: { gemma3_text: "Gemma3ForCausalLM" },
  keys: [...COMMON, f32("final_logit_softcapping", "final_logit_softcapping", true)],
  tensors: {
    ...TENSORS,
    "blk.{n}.attn_q_norm.weight": tensor(`${AT}.q_norm.weight`, ONE_PLUS),
    "blk.{n}.attn_k_norm.weight": tensor(`${AT}.k_norm.weight`, ONE_PLUS),
  },
  tied: true,
  layerType: "full_attention",
  fixed: { ...ACTIVATIONS, attn_logit_softcapping: [null] },
  differs: (config) => scaleDiffers(config, LARGE.gemma3),
  config: async (facts) => ({
    ...(await ropeConfig(facts)),
    ...scalar(facts, LARGE.gemma3),
    head_dim: headSize(facts),
    hidden_activation: "gelu_pytorch_tanh",
    rope_local_base_freq: facts.fields.number("rope.freq_base_swa", 10_000),
    sliding_window_pattern: facts.fields.integer("attention.sliding_window_pattern", 6),
  }),
  metadata: (config) => {
    const { rope_local_base_freq: local = 10_000, sliding_window_pattern: pattern = 6 } = config;
    return {
      ...ropeMetadata(config, "full_attention"),
      ...keyLength({ head_dim: 256, ...config }),
      ...scale(config),
      "rope.freq_base_swa": real(local as number),
      ...(pattern === 6 ? {} : { "attention.sliding_window_pattern": count(pattern as number) }),
    };
  },
};
