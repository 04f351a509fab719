import { ConfigError, type GluKind } from "@x/kernels";
import { ropeFromHuggingFace, type RopeConfig } from "@x/positional";

/** Mixes tokens. `type` names an entry of the components' mixers. */
export interface AttentionSpec {
  readonly type: "attention";
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Keys that a query sees, the own one included. */
  readonly window?: number | undefined;
  /** Biases of q, k, v, and of the output. */
  readonly qkvBias: boolean;
  readonly outBias: boolean;
  readonly qkNorm: boolean;
  readonly rope: RopeConfig;
}

export interface GluSpec {
  readonly type: "glu";
  readonly kind: GluKind;
  readonly hiddenDim: number;
  readonly bias: boolean;
}

export interface MoeSpec {
  readonly type: "moe";
  readonly hiddenDim: number;
  readonly numExperts: number;
  readonly topK: number;
}

/** Any entry of the registry: what it reads besides `type` is its own matter. */
export interface ComponentSpec {
  readonly type: string;
  readonly [key: string]: unknown;
}

export interface LayerSpec {
  readonly mixer: AttentionSpec | ComponentSpec;
  readonly ffn: GluSpec | MoeSpec | ComponentSpec;
}

/** A decoder-only model: what is assembled, layer by layer. */
export interface ModelConfig {
  readonly family: string;
  readonly vocabSize: number;
  readonly dim: number;
  readonly normEps: number;
  readonly maxLength: number;
  readonly tieEmbeddings: boolean;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  readonly layers: readonly LayerSpec[];
  /** Factor of the load-balancing loss in training. */
  readonly balanceLoss: number;
}

type Json = Readonly<Record<string, unknown>>;

/** Reads a config file's fields; null is absent. */
class Fields {
  readonly #file: string;
  readonly #json: Json;
  constructor(file: string, json: Json) {
    this.#file = file;
    this.#json = json;
  }
  fail(key: string, message: string): never {
    throw new ConfigError(this.#file, `${key} ${message}`);
  }
  get(key: string): unknown {
    return this.#json[key] ?? undefined;
  }
  integer(key: string, otherwise?: number, min = 1): number {
    const value = this.get(key) ?? otherwise;
    if (value === undefined) return this.fail(key, "is missing");
    if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > 2 ** 31)
      return this.fail(key, `is ${JSON.stringify(value)}; it must be an integer of at least ${min}`);
    return value;
  }
  number(key: string, otherwise: number): number {
    const value = this.get(key) ?? otherwise;
    if (typeof value !== "number" || !Number.isFinite(value) || value < 0)
      return this.fail(key, `is ${JSON.stringify(value)}; it must be a number of at least 0`);
    return value;
  }
  flag(key: string, otherwise: boolean): boolean {
    const value = this.get(key) ?? otherwise;
    return typeof value === "boolean"
      ? value
      : this.fail(key, `is ${JSON.stringify(value)}; it must be true or false`);
  }
  ids(key: string): number[] {
    const value = this.get(key);
    const list: unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
    if (!list.every((x) => typeof x === "number" && Number.isInteger(x) && x >= 0))
      this.fail(key, `is ${JSON.stringify(value)}; it must be a token id or a list of them`);
    return list as number[];
  }
}

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
export type Family = (typeof FAMILIES)[number];

/**
 * A model's configuration from a Hugging Face `config.json` of the Llama, Mistral, Mixtral and Qwen families.
 *
 * @throws ConfigError naming the key, what it must be and what it is.
 */
export function fromHuggingFace(json: unknown, file = "config.json"): ModelConfig {
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw new ConfigError(file, "must hold an object");
  const source = json as Json;
  const f = new Fields(file, source);
  const family = f.get("model_type");
  if (typeof family !== "string" || !(FAMILIES as readonly string[]).includes(family)) {
    return f.fail("model_type", `is ${JSON.stringify(family)}; it must be one of ${FAMILIES.join(", ")}`);
  }
  const dim = f.integer("hidden_size");
  const numHeads = f.integer("num_attention_heads");
  const numKvHeads = f.integer("num_key_value_heads", numHeads);
  if (numHeads % numKvHeads !== 0)
    f.fail("num_key_value_heads", `is ${numKvHeads}; it must divide num_attention_heads, ${numHeads}`);
  const given = f.get("head_dim");
  if (given === undefined && dim % numHeads !== 0)
    f.fail(
      "hidden_size",
      `is ${dim}; without head_dim it must be a multiple of num_attention_heads, ${numHeads}`,
    );
  const headDim = given === undefined ? dim / numHeads : f.integer("head_dim");
  const act = f.get("hidden_act") ?? f.get("hidden_activation") ?? "silu";
  const kind = typeof act === "string" ? ACTIVATION_GLU[act] : undefined;
  if (kind === undefined)
    return f.fail(
      "hidden_act",
      `is ${JSON.stringify(act)}; it must be one of ${Object.keys(ACTIVATION_GLU).join(", ")}`,
    );
  const count = f.integer("num_hidden_layers");
  const hiddenDim = f.integer("intermediate_size");
  const qwen2 = family === "qwen2";
  const bias = f.flag("attention_bias", false);
  const window = f.get("sliding_window") === undefined ? undefined : f.integer("sliding_window");
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
  if (moe && kind !== "swiglu") f.fail("hidden_act", "must be silu for mixtral");
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
        window: windowed(i) ? window : undefined,
        qkvBias: qwen2 || bias,
        outBias: !qwen2 && bias,
        qkNorm: family === "qwen3",
        rope: { ...rope, headDim },
      },
      ffn: moe
        ? { type: "moe", hiddenDim, numExperts, topK }
        : { type: "glu", kind, hiddenDim, bias: f.flag("mlp_bias", false) },
    };
  });
  return {
    family,
    vocabSize: f.integer("vocab_size"),
    dim,
    normEps: f.number("rms_norm_eps", 1e-6),
    maxLength: f.integer("max_position_embeddings", 2048),
    tieEmbeddings: f.flag("tie_word_embeddings", false),
    bosTokenId: f.ids("bos_token_id")[0],
    eosTokenIds: f.ids("eos_token_id"),
    layers,
    balanceLoss: f.number("router_aux_loss_coef", moe ? 0.001 : 0),
  };
}

/** Is this the mixer that the model's own code knows? */
export function isAttention(spec: AttentionSpec | ComponentSpec): spec is AttentionSpec {
  return spec.type === "attention";
}

export function isMoe(spec: GluSpec | MoeSpec | ComponentSpec): spec is MoeSpec {
  return spec.type === "moe";
}
