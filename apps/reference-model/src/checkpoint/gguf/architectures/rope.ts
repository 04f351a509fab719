import { ConfigError } from "@x/kernels";
import { ropeFrequencies, ropeFromHuggingFace } from "@x/positional";
import { real, count, type GgufFacts, type Json, type WrittenValue } from "./architecture.js";

const FREQUENCIES = "rope_freqs.weight";
const LONG = "rope_factors_long.weight";
const SHORT = "rope_factors_short.weight";

/** Size of a head, and the entries of it that are rotated. */
export function headSize({ fields }: GgufFacts): number {
  const size = fields.optionalInteger("attention.key_length");
  const width = fields.integer("embedding_length");
  const heads = fields.integer("attention.head_count");
  const values = fields.optionalInteger("attention.value_length");
  if (size === undefined && width % heads !== 0)
    fields.fail(
      "embedding_length",
      `is ${width}; without attention.key_length it must be a multiple of ${heads} heads`,
    );
  const found = size ?? width / heads;
  if (values !== undefined && values !== found)
    fields.fail("attention.value_length", `is ${values}; it must be attention.key_length, ${found}`);
  return found;
}

/** `head_dim` where it does not follow from width and heads. */
export function headDim(facts: GgufFacts): Json {
  const size = headSize(facts);
  const { fields } = facts;
  return size * fields.integer("attention.head_count") === fields.integer("embedding_length")
    ? {}
    : { head_dim: size };
}

/** Rotations of config.json: `rope_scaling` and, where a head is rotated in part, `partial_rotary_factor`. */
export async function ropeConfig(facts: GgufFacts): Promise<Json> {
  const { fields } = facts;
  const size = headSize(facts);
  const rotated = fields.integer("rope.dimension_count", size);
  const scaling = await ropeScaling(facts, rotated);
  return {
    ...(rotated === size ? {} : { partial_rotary_factor: rotated / size }),
    ...(scaling ? { rope_scaling: scaling } : {}),
  };
}

async function ropeScaling(facts: GgufFacts, rotated: number): Promise<Json | undefined> {
  const { fields } = facts;
  const [long, short, one] = [
    await facts.numbers(LONG),
    await facts.numbers(SHORT),
    await facts.numbers(FREQUENCIES),
  ];
  for (const [name, list] of Object.entries({ [LONG]: long, [SHORT]: short, [FREQUENCIES]: one }))
    if (list && list.length !== rotated / 2)
      fields.fail(
        name,
        `has ${list.length} factors; a head of ${rotated} rotated entries has ${rotated / 2}`,
      );
  if ((long === undefined) !== (short === undefined))
    fields.fail(long ? SHORT : LONG, "is missing; short and long factors come together");
  const context = fields.integer("context_length");
  if (long && short) {
    const original = fields.integer("rope.scaling.original_context_length", context);
    const attention = fields.get("rope.scaling.attn_factor");
    return {
      rope_type: "longrope",
      short_factor: short,
      long_factor: long,
      original_max_position_embeddings: original,
      ...(attention === undefined ? {} : { attention_factor: fields.number("rope.scaling.attn_factor") }),
    };
  }
  // Factors for every length, which carry the scaling of Llama 3: longrope says the same with equal lists.
  if (one)
    return {
      rope_type: "longrope",
      short_factor: one,
      long_factor: one,
      original_max_position_embeddings: context,
      attention_factor: 1,
    };
  const old = fields.get("rope.scale_linear") === undefined ? undefined : fields.number("rope.scale_linear");
  const type = fields.oneOf(
    "rope.scaling.type",
    ["none", "linear", "yarn"],
    old === undefined ? "none" : "linear",
  );
  if (type === "none") return undefined;
  const factor = fields.number("rope.scaling.factor", old);
  if (type === "linear") return factor === 1 ? undefined : { rope_type: "linear", factor };
  const original = fields.integer("rope.scaling.original_context_length", context);
  const optional = (own: string, key: string): Json =>
    fields.get(key) === undefined ? {} : { [own]: fields.number(key) };
  return {
    rope_type: "yarn",
    factor,
    original_max_position_embeddings: original,
    ...optional("beta_fast", "rope.scaling.yarn_beta_fast"),
    ...optional("beta_slow", "rope.scaling.yarn_beta_slow"),
    ...(fields.get("rope.scaling.attn_factor") === undefined
      ? {}
      : { attention_factor: fields.number("rope.scaling.attn_factor") * (0.1 * Math.log(factor) + 1) }),
  };
}

/** Rotations in metadata. @throws ConfigError for a scaling that GGUF has no keys for */
export function ropeMetadata(config: Json, layerType?: string): Record<string, WrittenValue> {
  const rope = ropeFromHuggingFace(config, layerType);
  const out: Record<string, WrittenValue> = { "rope.dimension_count": count(rope.rotaryDim ?? rope.headDim) };
  if (rope.base !== undefined) out["rope.freq_base"] = real(rope.base);
  const scaling = rope.scaling ?? { type: "none" as const };
  switch (scaling.type) {
    case "none":
    case "llama3":
      return out;
    case "linear":
      return {
        ...out,
        "rope.scaling.type": { type: "string", value: "linear" },
        "rope.scaling.factor": real(scaling.factor),
      };
    case "yarn": {
      const { factor, attentionFactor, betaFast, betaSlow } = scaling;
      return {
        ...out,
        "rope.scaling.type": { type: "string", value: "yarn" },
        "rope.scaling.factor": real(factor),
        "rope.scaling.original_context_length": count(scaling.originalMaxPositionEmbeddings),
        ...(betaFast === undefined ? {} : { "rope.scaling.yarn_beta_fast": real(betaFast) }),
        ...(betaSlow === undefined ? {} : { "rope.scaling.yarn_beta_slow": real(betaSlow) }),
        ...(attentionFactor === undefined
          ? {}
          : { "rope.scaling.attn_factor": real(attentionFactor / (0.1 * Math.log(factor) + 1)) }),
      };
    }
    case "longrope": {
      const { originalMaxPositionEmbeddings: original } = scaling;
      if (isOneList(scaling)) return out;
      const { attentionFactor } = ropeFrequencies({ ...rope, scaling });
      return {
        ...out,
        "rope.scaling.original_context_length": count(original),
        "rope.scaling.attn_factor": real(attentionFactor),
      };
    }
    default:
      throw new ConfigError("gguf", `rope scaling "${scaling.type}" has no form in GGUF`);
  }
}

type Factors = { readonly shortFactor: ArrayLike<number>; readonly longFactor: ArrayLike<number> };

/** Equal factors for every length, and no temperature. */
function isOneList(scaling: Factors & { readonly attentionFactor?: unknown }): boolean {
  const { shortFactor: short, longFactor: long, attentionFactor } = scaling;
  return attentionFactor === 1 && Array.from(short).every((x, i) => x === long[i]);
}

/** The tensors of factors that a configuration needs. */
export function ropeTensors(config: Json, layerType?: string): Record<string, Float32Array> {
  const rope = ropeFromHuggingFace(config, layerType);
  const { scaling } = rope;
  if (scaling?.type === "llama3") {
    const plain = ropeFrequencies({ ...rope, scaling: { type: "none" } }).invFreq;
    const { invFreq } = ropeFrequencies(rope);
    return { [FREQUENCIES]: Float32Array.from(plain, (x, i) => x / invFreq[i]!) };
  }
  if (scaling?.type !== "longrope") return {};
  if (isOneList(scaling)) return { [FREQUENCIES]: Float32Array.from(scaling.shortFactor) };
  return {
    [LONG]: Float32Array.from(scaling.longFactor),
    [SHORT]: Float32Array.from(scaling.shortFactor),
  };
}

/** Tensors that are read as a part of the configuration. */
export const ROPE_TENSORS: readonly string[] = [FREQUENCIES, LONG, SHORT];
