import type { GluKind } from "@x/kernels";
import { ropeFromHuggingFace } from "@x/positional";
import { expectObject, Fields, MAX_LAYERS } from "./fields.js";
import type { ComponentSpec, LayerSpec, ModelConfig } from "./model_config.js";

const ACTIVATION_GLU: Readonly<Record<string, GluKind>> = {
  silu: "swiglu",
  swish: "swiglu",
  gelu: "geglu",
  gelu_pytorch_tanh: "gegluTanh",
  gelu_new: "gegluTanh",
  relu: "reglu",
  sigmoid: "glu",
  mish: "miglu",
};

export const FAMILIES = ["llama", "mistral", "mixtral", "qwen2", "qwen3"] as const;
type Family = (typeof FAMILIES)[number];

/** What a key of `config.json` means where it is absent. */
type Defaults = Readonly<Record<string, number | boolean | string | readonly number[]>>;

const COMMON: Defaults = {
  hidden_size: 4096,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  hidden_act: "silu",
  rms_norm_eps: 1e-6,
  rope_theta: 1e4,
  tie_word_embeddings: false,
  attention_bias: false,
  mlp_bias: false,
};
const LLAMA: Defaults = {
  ...COMMON,
  vocab_size: 32_000,
  intermediate_size: 11_008,
  max_position_embeddings: 2048,
  bos_token_id: 1,
  eos_token_id: 2,
};
const MISTRAL: Defaults = {
  ...LLAMA,
  intermediate_size: 14_336,
  max_position_embeddings: 131_072,
  num_key_value_heads: 8,
};
const QWEN: Defaults = {
  ...COMMON,
  vocab_size: 151_936,
  intermediate_size: 22_016,
  max_position_embeddings: 32_768,
  num_key_value_heads: 32,
  use_sliding_window: false,
  sliding_window: 4096,
  max_window_layers: 28,
};

/**
 * The defaults of each family's configuration class (transformers: LlamaConfig, MistralConfig, MixtralConfig,
 * Qwen2Config, Qwen3Config). A key without a default, such as Llama's num_key_value_heads, follows from others.
 */
const FAMILY_DEFAULTS: Readonly<Record<Family, Defaults>> = {
  llama: LLAMA,
  mistral: { ...MISTRAL, sliding_window: 4096 },
  mixtral: {
    ...MISTRAL,
    rope_theta: 1e6,
    rms_norm_eps: 1e-5,
    num_local_experts: 8,
    num_experts_per_tok: 2,
    router_aux_loss_coef: 0.001,
  },
  qwen2: QWEN,
  qwen3: { ...QWEN, head_dim: 128 },
};

/** Other names that a family's configuration class takes for a key. */
const OTHER_NAMES: Readonly<Record<string, string>> = {
  num_experts: "num_local_experts",
  hidden_activation: "hidden_act",
};

/** Keys that may be null: what they mean follows from other keys, or is "none". */
const NULLABLE = ["num_key_value_heads", "head_dim", "sliding_window", "bos_token_id", "eos_token_id"];

/** A family's configuration with its defaults, under the usual names. */
function withDefaults(family: Family, given: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const out: Record<string, unknown> = { ...FAMILY_DEFAULTS[family] };
  for (const [key, value] of Object.entries(given)) {
    const name = OTHER_NAMES[key] ?? key;
    if (value === undefined || (name !== key && given[name] !== undefined)) continue;
    if (value !== null || !(name in out) || NULLABLE.includes(name)) out[name] = value;
  }
  return out;
}

/**
 * A model's configuration from a Hugging Face `config.json` of the Llama, Mistral, Mixtral and Qwen families.
 *
 * @throws ConfigError naming the key, what it must be and what it is.
 */
export function fromHuggingFace(json: unknown, file = "config.json"): ModelConfig {
  const given = expectObject(file, json);
  const family = new Fields(file, given).oneOf("model_type", FAMILIES);
  const source = withDefaults(family, given);
  const f = new Fields(file, source);
  const dim = f.integer("hidden_size");
  const numHeads = f.integer("num_attention_heads");
  const numKvHeads = f.integer("num_key_value_heads", numHeads);
  if (numHeads % numKvHeads !== 0)
    f.fail(
      "num_key_value_heads",
      `is ${numKvHeads}${given["num_key_value_heads"] === undefined ? `, the default of ${family}` : ""}; it must divide num_attention_heads, ${numHeads}`,
    );
  const ownDim = f.optionalInteger("head_dim");
  if (ownDim === undefined && dim % numHeads !== 0)
    f.fail(
      "hidden_size",
      `is ${dim}; without head_dim it must be a multiple of num_attention_heads, ${numHeads}`,
    );
  const headDim = ownDim ?? dim / numHeads;
  const act = f.get("hidden_act") ?? "silu";
  const kind = typeof act === "string" ? ACTIVATION_GLU[act] : undefined;
  if (kind === undefined)
    return f.fail(
      "hidden_act",
      `is ${JSON.stringify(act)}; it must be one of ${Object.keys(ACTIVATION_GLU).join(", ")}`,
    );
  const count = f.integer("num_hidden_layers", undefined, 1, MAX_LAYERS);
  const hiddenDim = f.integer("intermediate_size");
  const eps = f.number("rms_norm_eps");
  const qwen2 = family === "qwen2";
  const bias = f.flag("attention_bias", false);
  const window = f.optionalInteger("sliding_window");
  const layerTypes = f.get("layer_types");
  if (layerTypes !== undefined) {
    const known = ["full_attention", "sliding_attention"];
    if (
      !Array.isArray(layerTypes) ||
      layerTypes.length !== count ||
      !layerTypes.every((t) => known.includes(t as string))
    ) {
      f.fail("layer_types", `must list ${count} of ${known.join(", ")}`);
    }
  }
  const windowed = (layer: number): boolean => {
    if (window === undefined) return false;
    if (Array.isArray(layerTypes)) return layerTypes[layer] === "sliding_attention";
    if (family === "mistral" || family === "mixtral") return true;
    if (family === "llama") return false;
    return f.flag("use_sliding_window", false) && layer >= f.integer("max_window_layers", undefined, 0);
  };
  const moe = family === "mixtral";
  const numExperts = moe ? f.integer("num_local_experts") : 0;
  const topK = moe ? f.integer("num_experts_per_tok") : 0;
  if (topK > numExperts)
    f.fail("num_experts_per_tok", `is ${topK}; it must not exceed num_local_experts, ${numExperts}`);
  const norm: ComponentSpec = { type: "rms", eps };
  const layers = Array.from({ length: count }, (_, i): LayerSpec => {
    const rope = ropeFromHuggingFace(
      source,
      Array.isArray(layerTypes) ? (layerTypes[i] as string) : undefined,
    );
    return {
      mixer: {
        type: "attention",
        numHeads,
        numKvHeads,
        headDim,
        ...(windowed(i) ? { window } : {}),
        qkvBias: qwen2 || bias,
        outBias: !qwen2 && bias,
        ...(family === "qwen3" ? { qkNorm: { type: "rms", eps } } : {}),
      },
      ffn: moe
        ? { type: "mixtral", hiddenDim, numExperts, topK, gluKind: kind }
        : { type: "glu", kind, hiddenDim, bias: f.flag("mlp_bias", false) },
      norm,
      placement: "preLn",
      position: { type: "rope", ...rope, headDim },
    };
  });
  return {
    family,
    vocabSize: f.integer("vocab_size"),
    dim,
    maxLength: f.integer("max_position_embeddings"),
    tieEmbeddings: f.flag("tie_word_embeddings", false),
    bosTokenId: f.ids("bos_token_id")[0],
    eosTokenIds: f.ids("eos_token_id"),
    embedScale: 1,
    embedNorm: undefined,
    finalNorm: norm,
    layers,
    balanceLoss: moe ? f.number("router_aux_loss_coef", 0) : 0,
  };
}
