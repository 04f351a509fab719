import { ConfigError, nearest } from "@x/kernels";
import { expectObject, Fields, MAX_LAYERS } from "../../config/fields.js";
import type { ComponentSpec, LayerSpec, ModelConfig } from "../../config/model_config.js";
import type { TensorTable } from "./tensor_names.js";

type Json = Readonly<Record<string, unknown>>;

/** What a block of a public model has besides the model's norm. */
export type BlockParts = Pick<LayerSpec, "mixer" | "ffn" | "position"> &
  Partial<Pick<LayerSpec, "norm" | "placement" | "parallel" | "branchScale" | "cross">>;

/** What a configuration says: the norm of the stream, block by block the parts, and what few families have. */
export interface DecoderParts {
  readonly norm: ComponentSpec;
  readonly block: (layer: number) => BlockParts;
  readonly embedScale?: number;
  readonly embedNorm?: ComponentSpec;
  readonly finalNorm?: ComponentSpec;
  readonly logitScale?: number;
  readonly logitSoftcap?: number;
  readonly balanceLoss?: number;
}

/** The keys of a configuration under their usual names, with the family's defaults, and the whole of it. */
export class FamilyConfig extends Fields {
  /** All keys, those that no declaration reads included. */
  readonly source: Json;
  readonly numLayers: number;

  readonly #file: string;
  readonly #shown: Readonly<Record<string, string>>;

  constructor(file: string, source: Json, shown: Readonly<Record<string, string>>) {
    super(file, source, undefined, shown);
    this.#file = file;
    this.#shown = shown;
    this.source = source;
    this.numLayers = this.integer("num_hidden_layers", undefined, 1, MAX_LAYERS);
  }

  /** The configuration with other values. */
  with(values: Json): FamilyConfig {
    return new FamilyConfig(this.#file, { ...this.source, ...values }, this.#shown);
  }

  /** A nested object of the file, null as absent, with its defaults. */
  below(key: string, defaults: Json): Fields {
    const given = Object.entries(expectObject(`${this.#file}: ${key}`, this.get(key) ?? {}));
    return new Fields(`${this.#file}: ${key}`, {
      ...defaults,
      ...Object.fromEntries(given.filter(([, v]) => v !== null)),
    });
  }
}

/** A family of public models: how its config.json and its tensors are those of a model made of parts. */
export interface Family {
  /** The models that people know it by. */
  readonly title: string;
  /** Values of the family's configuration class for keys that a file leaves out, under their usual names. */
  readonly defaults: Json;
  /** The family's own names of keys, with the usual ones. */
  readonly keys?: Readonly<Record<string, string>>;
  /** Keys that may be null besides those that may be in every family. */
  readonly nullable?: readonly string[];
  readonly decoder: (config: FamilyConfig) => DecoderParts;
  readonly tensors?: (config: FamilyConfig) => TensorTable;
}

/** Names that a key has in some family. */
const USUAL: Readonly<Record<string, string>> = {
  num_experts: "num_local_experts",
  hidden_activation: "hidden_act",
  activation_function: "hidden_act",
  rms_norm_eps: "norm_eps",
  layer_norm_eps: "norm_eps",
  layer_norm_epsilon: "norm_eps",
  norm_epsilon: "norm_eps",
  n_embd: "hidden_size",
  n_layer: "num_hidden_layers",
  n_head: "num_attention_heads",
};

/** Keys that may be null: what they mean follows from other keys, or is "none". */
const NULLABLE = ["num_key_value_heads", "head_dim", "sliding_window", "bos_token_id", "eos_token_id"];

/** A family's configuration with its defaults, under the usual names. */
export function familyConfig(
  family: Pick<Family, "defaults" | "keys" | "nullable">,
  file: string,
  given: Json,
): FamilyConfig {
  const names = { ...USUAL, ...family.keys };
  const nullable = [...NULLABLE, ...(family.nullable ?? [])];
  const source: Record<string, unknown> = { ...family.defaults };
  const shown: Record<string, string> = {};
  for (const [key, value] of Object.entries(given)) {
    const name = names[key] ?? key;
    if (value === undefined || (name !== key && given[name] !== undefined)) continue;
    shown[name] = key;
    if (value !== null || !(name in source) || nullable.includes(name)) source[name] = value;
  }
  return new FamilyConfig(file, source, shown);
}

/** A model, or one stack of it, of the parts that a configuration says. */
export function modelOf(
  modelType: string,
  { norm, block, ...parts }: DecoderParts,
  f: FamilyConfig,
): ModelConfig {
  return {
    family: modelType,
    vocabSize: f.integer("vocab_size"),
    dim: f.integer("hidden_size"),
    maxLength: f.integer("max_position_embeddings"),
    tieEmbeddings: f.flag("tie_word_embeddings", false),
    bosTokenId: f.ids("bos_token_id")[0],
    eosTokenIds: f.ids("eos_token_id"),
    embedScale: parts.embedScale ?? 1,
    embedNorm: parts.embedNorm,
    finalNorm: parts.finalNorm ?? norm,
    logitScale: parts.logitScale ?? 1,
    logitSoftcap: parts.logitSoftcap ?? 0,
    layers: Array.from({ length: f.numLayers }, (_, i) => ({
      norm,
      placement: "preLn" as const,
      ...block(i),
    })),
    balanceLoss: parts.balanceLoss ?? 0,
  };
}

/** The family of a configuration. @throws ConfigError that names the architecture and lists those that are known */
export function findFamily<F>(
  file: string,
  json: unknown,
  families: Readonly<Record<string, F>>,
): [string, F] {
  const type = expectObject(file, json)["model_type"];
  if (typeof type === "string" && Object.hasOwn(families, type)) return [type, families[type]!];
  const known = Object.keys(families);
  const near = typeof type === "string" ? nearest(type, known) : undefined;
  throw new ConfigError(
    file,
    `model_type is ${JSON.stringify(type)}; it must be one of ${known.join(", ")}${near === undefined ? "" : `; did you mean ${JSON.stringify(near)}?`}`,
  );
}
