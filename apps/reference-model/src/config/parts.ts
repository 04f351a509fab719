import type { Placement } from "@x/norm";
import { expectObject, Fields, MAX_LAYERS } from "./fields.js";
import type { ComponentSpec, LayerSpec, ModelConfig } from "./model_config.js";

/** `model_type` of a configuration that names its parts. */
export const PARTS_FAMILY = "parts";

const PLACEMENTS: readonly Placement[] = [
  "preLn",
  "postLn",
  "subLn",
  "sandwich",
  "periLn",
  "resPostNorm",
  "deepnorm",
];
/** Placements whose stream leaves the last block without a norm of its own. */
const ENDS_WITH_NORM: readonly Placement[] = ["preLn", "subLn", "sandwich", "periLn", "resPostNorm"];

const LAYER_KEYS = ["mixer", "ffn", "norm", "placement", "position", "parallel", "branchScale"] as const;
const KEYS = [
  "model_type",
  "architectures",
  "torch_dtype",
  "dtype",
  "quantization_config",
  "vocab_size",
  "bos_token_id",
  "eos_token_id",
  "dim",
  "maxLength",
  "tieEmbeddings",
  "embedScale",
  "embedNorm",
  "finalNorm",
  "logitScale",
  "logitSoftcap",
  "balanceLoss",
  "numLayers",
  "layers",
  ...LAYER_KEYS,
] as const;

const DEFAULTS = {
  norm: { type: "rms" },
  placement: "preLn",
  position: { type: "rope" },
} as const;

type Json = Readonly<Record<string, unknown>>;

function component(who: string, json: Json, key: string): ComponentSpec {
  const value = expectObject(`${who}: ${key}`, json[key]);
  return { ...value, type: new Fields(`${who}: ${key}`, value).text("type") };
}

/** Blocks side by side have nothing that norms their outputs. */
function parallel(f: Fields): "oneNorm" | "ownNorms" {
  if (f.get("placement") !== "preLn")
    f.fail(
      "parallel",
      `goes with the placement "preLn" only; placement is ${JSON.stringify(f.get("placement"))}`,
    );
  return f.oneOf("parallel", ["oneNorm", "ownNorms"]);
}

function layer(who: string, json: Json): LayerSpec {
  const f = new Fields(who, json, LAYER_KEYS);
  for (const key of ["mixer", "ffn"]) if (f.get(key) === undefined) f.fail(key, "is missing");
  return {
    mixer: component(who, json, "mixer"),
    ffn: component(who, json, "ffn"),
    norm: component(who, json, "norm"),
    placement: f.oneOf("placement", PLACEMENTS),
    position: component(who, json, "position"),
    ...(f.get("parallel") === undefined ? {} : { parallel: parallel(f) }),
    ...(f.get("branchScale") === undefined ? {} : { branchScale: f.number("branchScale", 1, -Infinity) }),
  };
}

/**
 * A model's configuration that names its parts:
 * `{ "model_type": "parts", "dim": 64, "numLayers": 2, "mixer": {"type": "attention", "numHeads": 4},
 * "ffn": {"type": "glu", "hiddenDim": 128}, "position": {"type": "alibi"}, "norm": {"type": "layer"},
 * "placement": "postLn" }`. `layers` lists what single layers have instead (`{}`: nothing).
 *
 * @throws ConfigError naming the key, what it must be and what it is.
 */
export function fromParts(json: unknown, file = "config.json"): ModelConfig {
  const source = expectObject(file, json);
  const f = new Fields(file, source, KEYS);
  const common = Object.fromEntries(LAYER_KEYS.map((key) => [key, f.get(key) ?? (DEFAULTS as Json)[key]]));
  const given = f.get("layers");
  if (given !== undefined && !Array.isArray(given)) f.fail("layers", "must be a list");
  const list = (given as unknown[] | undefined) ?? [];
  const count = f.integer("numLayers", list.length > 0 ? list.length : undefined, 1, MAX_LAYERS);
  if (list.length > 0 && list.length !== count)
    f.fail("layers", `lists ${list.length} layers; numLayers is ${count}`);
  const layers = Array.from({ length: count }, (_, i) => {
    const who = `${file}: layers[${i}]`;
    const own = list.length > 0 ? expectObject(who, list[i]) : {};
    return layer(who, { ...common, ...own });
  });
  const optional = (key: string, otherwise: ComponentSpec | undefined): ComponentSpec | undefined =>
    source[key] === undefined ? otherwise : source[key] === null ? undefined : component(file, source, key);
  const last = layers.at(-1)!;
  return {
    family: PARTS_FAMILY,
    vocabSize: f.integer("vocab_size"),
    dim: f.integer("dim"),
    maxLength: f.integer("maxLength", 512),
    tieEmbeddings: f.flag("tieEmbeddings", true),
    bosTokenId: f.ids("bos_token_id")[0],
    eosTokenIds: f.ids("eos_token_id"),
    embedScale: f.number("embedScale", 1),
    logitScale: f.number("logitScale", 1, -Infinity),
    logitSoftcap: f.number("logitSoftcap", 0),
    embedNorm: optional("embedNorm", undefined),
    finalNorm: optional("finalNorm", ENDS_WITH_NORM.includes(last.placement) ? last.norm : undefined),
    layers,
    balanceLoss: f.number("balanceLoss", 0.01),
  };
}
