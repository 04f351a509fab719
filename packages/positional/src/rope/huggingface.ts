import { ConfigError, expectBoolean, expectRecord } from "@x/kernels";
import type { RopeConfig, RopeScaling } from "./resolve.js";

type Json = Readonly<Record<string, unknown>>;

function record(value: unknown): Json | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
}

/** null and absent are the same in these files. */
function number(source: Json, key: string): number | undefined {
  const value = source[key] ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isFinite(value))
    throw new ConfigError("rope config", `${key} is ${JSON.stringify(value)}; it must be a number`);
  return value;
}

function required(source: Json, key: string, type: string): number {
  const value = number(source, key);
  if (value === undefined) throw new ConfigError("rope config", `rope type "${type}" needs ${key}`);
  return value;
}

function list(source: Json, key: string): number[] {
  const value = source[key];
  if (!Array.isArray(value) || !value.every((x) => typeof x === "number"))
    throw new ConfigError("rope config", `${key} is ${JSON.stringify(value)}; it must list numbers`);
  return value;
}

function present<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as never;
}

/** Zero counts as absent for these, as in transformers. */
const orNone = (x: number | undefined): number | undefined => (x === 0 ? undefined : x);

function scaling(type: string, dict: Json, config: Json): RopeScaling {
  const trained = number(config, "max_position_embeddings");
  const limit =
    orNone(number(dict, "original_max_position_embeddings")) ??
    orNone(number(config, "original_max_position_embeddings")) ??
    trained;
  const length = (): number => {
    if (limit === undefined)
      throw new ConfigError(
        "rope config",
        `rope type "${type}" needs original_max_position_embeddings or max_position_embeddings`,
      );
    return limit;
  };
  const ratio = (): number => {
    const given = number(dict, "factor");
    if (given !== undefined) return given;
    if (trained === undefined)
      throw new ConfigError("rope config", `rope type "${type}" needs factor or max_position_embeddings`);
    return trained / length();
  };
  switch (type) {
    case "default":
    case "mrope":
      return { type: "none" };
    case "linear":
      return { type: "linear", factor: required(dict, "factor", type) };
    case "dynamic": {
      if (trained === undefined)
        throw new ConfigError("rope config", 'rope type "dynamic" needs max_position_embeddings');
      return {
        type: "dynamicNtk",
        factor: required(dict, "factor", type),
        originalMaxPositionEmbeddings: trained,
      };
    }
    case "ntk":
      return { type: "ntk", factor: number(dict, "factor") ?? required(dict, "alpha", type) };
    case "yarn": {
      const truncate = dict["truncate"] ?? undefined;
      if (truncate !== undefined) expectBoolean("rope config", "truncate", truncate);
      return present({
        type: "yarn" as const,
        factor: ratio(),
        originalMaxPositionEmbeddings: length(),
        betaFast: orNone(number(dict, "beta_fast")),
        betaSlow: orNone(number(dict, "beta_slow")),
        attentionFactor: number(dict, "attention_factor"),
        mscale: number(dict, "mscale"),
        mscaleAllDim: number(dict, "mscale_all_dim"),
        truncate,
      });
    }
    case "longrope":
    case "su": {
      const [short, long] = [number(dict, "short_mscale"), number(dict, "long_mscale")];
      if ((short === undefined) !== (long === undefined))
        throw new ConfigError(
          "rope config",
          `rope type "${type}" has one of short_mscale and long_mscale; it needs both`,
        );
      const attentionFactor =
        number(dict, "attention_factor") ??
        (short !== undefined && long !== undefined ? { short, long } : undefined);
      return present({
        type: "longrope" as const,
        shortFactor: list(dict, "short_factor"),
        longFactor: list(dict, "long_factor"),
        originalMaxPositionEmbeddings: length(),
        // Only the temperature that follows from it needs the ratio.
        factor: attentionFactor === undefined ? ratio() : number(dict, "factor"),
        attentionFactor,
      });
    }
    case "llama3":
      return {
        type: "llama3",
        factor: required(dict, "factor", type),
        lowFreqFactor: required(dict, "low_freq_factor", type),
        highFreqFactor: required(dict, "high_freq_factor", type),
        originalMaxPositionEmbeddings: length(),
      };
    default:
      throw new ConfigError(
        "rope config",
        `rope type ${JSON.stringify(type)} is not known; known: default, linear, dynamic, ntk, yarn, longrope, llama3`,
      );
  }
}

/** Families whose checkpoints pair neighbouring features; the others pair the halves. */
const INTERLEAVED = new Set(["gptj", "codegen", "roformer", "cohere", "cohere2", "glm", "glm4", "chatglm"]);

/** The rope dictionary of a model config: `rope_parameters` (newer), else `rope_scaling`. */
function ropeDictionary(config: Json): Json {
  for (const key of ["rope_parameters", "rope_scaling"]) {
    const value = config[key] ?? undefined;
    if (value === undefined) continue;
    const dict = record(value);
    if (!dict)
      throw new ConfigError(
        "rope config",
        `${key} is ${JSON.stringify(value)}; it must be an object or null`,
      );
    return dict;
  }
  return {};
}

const isPerLayer = (dict: Json): boolean => Object.values(dict).some((v) => record(v) !== undefined);

/** The bases of full and of sliding layers at top level: Gemma 3's names, then ModernBERT's. */
function basesPerLayer(config: Json): { full: number | undefined; sliding: number } | undefined {
  const gemma = number(config, "rope_local_base_freq");
  if (gemma !== undefined) return { full: number(config, "rope_theta"), sliding: gemma };
  const [full, sliding] = [number(config, "global_rope_theta"), number(config, "local_rope_theta")];
  if (sliding !== undefined) return { full, sliding };
  return full === undefined ? undefined : { full, sliding: full };
}

/**
 * Layer types that have a rotation of their own: the keys of a dictionary per layer type, or "full_attention" and
 * "sliding_attention" where their bases stand apart (Gemma 3, ModernBERT); empty where all layers are alike.
 */
export function ropeLayerTypes(config: Json): string[] {
  expectRecord("ropeLayerTypes", "config", config);
  const dict = ropeDictionary(config);
  if (isPerLayer(dict)) {
    const other = Object.entries(dict).find(([, v]) => v !== null && record(v) === undefined);
    if (other)
      throw new ConfigError(
        "rope config",
        `${other[0]} is ${JSON.stringify(other[1])} beside entries per layer type; it must be an object or null`,
      );
    return Object.keys(dict);
  }
  return basesPerLayer(config) === undefined ? [] : ["full_attention", "sliding_attention"];
}

/**
 * RoPE's configuration from a Hugging Face model config: `rope_scaling` (older) or `rope_parameters` (newer). Where
 * layers differ by type ("full_attention", ..; see `ropeLayerTypes`), `layerType` chooses.
 *
 * @throws ConfigError naming the key or the type that is not understood.
 */
export function ropeFromHuggingFace(config: Json, layerType?: string): RopeConfig {
  expectRecord("ropeFromHuggingFace", "config", config);
  let dict = ropeDictionary(config);
  const types = ropeLayerTypes(config);
  if (types.length > 0 && (layerType === undefined || !types.includes(layerType))) {
    throw new ConfigError(
      "rope config",
      `the rope dictionary has one entry per layer type (${types.join(", ")}); layerType is ${JSON.stringify(layerType)}`,
    );
  }
  const bases = basesPerLayer(config);
  const sliding = layerType === "sliding_attention";
  if (isPerLayer(dict)) dict = record(dict[layerType!]) ?? {};
  // Their own base, unscaled.
  else if (bases && sliding) dict = {};
  const heads = number(config, "num_attention_heads") ?? number(config, "n_head");
  const width = number(config, "hidden_size") ?? number(config, "n_embd");
  const headDim =
    number(config, "qk_rope_head_dim") ??
    number(config, "head_dim") ??
    (heads && width ? width / heads : undefined);
  if (headDim === undefined)
    throw new ConfigError("rope config", "needs head_dim, or hidden_size and num_attention_heads");
  const share =
    number(dict, "partial_rotary_factor") ??
    number(config, "partial_rotary_factor") ??
    number(config, "rotary_pct");
  const type = (dict["rope_type"] ?? dict["type"] ?? "default") as unknown;
  if (typeof type !== "string")
    throw new ConfigError("rope config", `rope_type is ${JSON.stringify(type)}; it must be a name`);
  const family = config["model_type"];
  const interleaved =
    config["rope_interleave"] === true || (typeof family === "string" && INTERLEAVED.has(family));
  return {
    headDim,
    rotaryDim: number(config, "rotary_dim") ?? (share === undefined ? headDim : Math.floor(headDim * share)),
    base:
      number(dict, "rope_theta") ??
      (sliding ? bases?.sliding : bases?.full) ??
      number(config, "rope_theta") ??
      number(config, "rotary_emb_base") ??
      10000,
    layout: interleaved ? "interleaved" : "half",
    scaling: scaling(type, dict, config),
  };
}
