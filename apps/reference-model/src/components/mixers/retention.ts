import {
  GatedRetention,
  MultiScaleRetention,
  type GatedRetentionLayerConfig,
  type MultiScaleRetentionConfig,
  type RetentionHeadsConfig,
  type SequenceForm,
} from "@x/attention";
import type { Fields } from "../../config/index.js";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/** `form` ("chunkwise") and `chunkSize` (64). */
export const FORM_KEYS: readonly string[] = ["form", "chunkSize"];
export function sequenceForm(f: Fields): SequenceForm {
  const form = f.oneOf("form", ["parallel", "recurrent", "chunkwise"], "chunkwise");
  return {
    form,
    chunkSize: form === "chunkwise" ? f.integer("chunkSize", 64) : f.optionalInteger("chunkSize"),
  };
}

const HEADS = ["numHeads", "valueDim", "rotary", "rotaryBase", "headNorm", "normEps", "gateFn"];

function layerConfig(
  f: Fields,
  dim: number,
  defaults: { readonly valueDim: number; readonly rotary: "retnet" | "rope" },
): RetentionHeadsConfig & SequenceForm {
  return {
    dim,
    numHeads: f.integer("numHeads"),
    valueDim: f.integer("valueDim", defaults.valueDim),
    rotary: f.oneOf("rotary", ["retnet", "rope", "none"] as const, defaults.rotary),
    rotaryBase: f.number("rotaryBase", 10000, 1),
    headNorm: f.oneOf("headNorm", ["rms", "layer", "none"] as const, "rms"),
    normEps: f.number("normEps", 1e-6),
    gateFn: f.oneOf("gateFn", ["swish", "gelu", "none"] as const, "swish"),
    ...sequenceForm(f),
  };
}

/**
 * RetNet's multi-scale retention: `numHeads`, `valueDim` (2 dim), `decay` ("retnet", "logLinspace" or a number for each
 * head), `decayNorm` (false), `rotary` ("retnet"), `rotaryBase`, `headNorm` ("rms"), `normEps`, `gateFn` ("swish"), `form`
 * ("chunkwise") and `chunkSize` (64).
 */
export const retentionMixer: Factory<Mixer> = sequenceMixer<MultiScaleRetentionConfig>({
  type: "retention",
  keys: [...HEADS, ...FORM_KEYS, "decay", "decayNorm"],
  config: (f, dim) => ({
    ...layerConfig(f, dim, { valueDim: 2 * dim, rotary: "retnet" }),
    decay: (f.get("decay") ?? "retnet") as "retnet",
    decayNorm: f.flag("decayNorm", false),
  }),
  plan: (config) => MultiScaleRetention.plan(config),
  build: (config, parameters) => new MultiScaleRetention(config, parameters),
});

/**
 * YOCO's gated retention: keys of retention but for the decay; `valueDim` (dim), `rotary` ("rope"), `gateLogitNormalizer`
 * (16).
 */
export const gatedRetentionMixer: Factory<Mixer> = sequenceMixer<GatedRetentionLayerConfig>({
  type: "gatedRetention",
  keys: [...HEADS, ...FORM_KEYS, "gateLogitNormalizer"],
  config: (f, dim) => ({
    ...layerConfig(f, dim, { valueDim: dim, rotary: "rope" }),
    gateLogitNormalizer: f.number("gateLogitNormalizer", 16),
  }),
  plan: (config) => GatedRetention.plan(config),
  build: (config, parameters) => new GatedRetention(config, parameters),
});
