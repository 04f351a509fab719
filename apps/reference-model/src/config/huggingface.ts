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

/** What a key that is absent (not null) means in a family, where that is not "none" or the value below. */
const FAMILY_DEFAULTS: Readonly<Record<Family, Readonly<Record<string, number>>>> = {
  llama: {},
  mistral: { sliding_window: 4096 },
  mixtral: { rope_theta: 1e6, rms_norm_eps: 1e-5, num_local_experts: 8, num_experts_per_tok: 2 },
  qwen2: { sliding_window: 4096, max_window_layers: 28 },
  qwen3: { head_dim: 128, sliding_window: 4096, max_window_layers: 28 },
};

/**
 * A model's configuration from a Hugging Face `config.json` of the Llama, Mistral, Mixtral and Qwen families.
 *
 * @throws ConfigError naming the key, what it must be and what it is.
 */
export function fromHuggingFace(json: unknown, file = "config.json"): ModelConfig {
  const given = expectObject(file, json);
  const family = new Fields(file, given).oneOf("model_type", FAMILIES);
  const source = { ...FAMILY_DEFAULTS[family], ...given };
  const f = new Fields(file, source);
  const dim = f.integer("hidden_size");
  const numHeads = f.integer("num_attention_heads");
  const numKvHeads = f.integer("num_key_value_heads", numHeads);
  if (numHeads % numKvHeads !== 0)
    f.fail("num_key_value_heads", `is ${numKvHeads}; it must divide num_attention_heads, ${numHeads}`);
  const ownDim = f.optionalInteger("head_dim");
  if (ownDim === undefined && dim % numHeads !== 0)
    f.fail(
      "hidden_size",
      `is ${dim}; without head_dim it must be a multiple of num_attention_heads, ${numHeads}`,
    );
  const headDim = ownDim ?? dim / numHeads;
  const act = f.get("hidden_act") ?? f.get("hidden_activation") ?? "silu";
  const kind = typeof act === "string" ? ACTIVATION_GLU[act] : undefined;
  if (kind === undefined)
    return f.fail(
      "hidden_act",
      `is ${JSON.stringify(act)}; it must be one of ${Object.keys(ACTIVATION_GLU).join(", ")}`,
    );
  const count = f.integer("num_hidden_layers", undefined, 1, MAX_LAYERS);
  const hiddenDim = f.integer("intermediate_size");
  const eps = f.number("rms_norm_eps", 1e-6);
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
    return f.flag("use_sliding_window", false) && layer >= f.integer("max_window_layers", count, 0);
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
    maxLength: f.integer("max_position_embeddings", 2048),
    tieEmbeddings: f.flag("tie_word_embeddings", false),
    bosTokenId: f.ids("bos_token_id")[0],
    eosTokenIds: f.ids("eos_token_id"),
    embedScale: 1,
    embedNorm: undefined,
    finalNorm: norm,
    layers,
    balanceLoss: f.number("router_aux_loss_coef", moe ? 0.001 : 0),
  };
}
