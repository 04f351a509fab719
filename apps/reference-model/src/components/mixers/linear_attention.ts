import { LinearAttention, type LinearAttentionLayerConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { FORM_KEYS, sequenceForm } from "./retention.js";
import { sequenceMixer } from "./sequence.js";

/**
 * Linear attention: `numHeads`, `featureMap` ("elu1", "relu" or "identity"), `normalize` (true), `eps`, `form`
 * ("chunkwise") and `chunkSize` (64).
 */
export const linearAttentionMixer: Factory<Mixer> = sequenceMixer<LinearAttentionLayerConfig>({
  type: "linearAttention",
  keys: ["numHeads", "featureMap", "normalize", "eps", ...FORM_KEYS],
  config: (f, dim) => ({
    dim,
    numHeads: f.integer("numHeads"),
    featureMap: f.oneOf("featureMap", ["elu1", "relu", "identity"] as const, "elu1"),
    normalize: f.flag("normalize", true),
    eps: f.number("eps", 1e-6),
    ...sequenceForm(f),
  }),
  plan: (config) => LinearAttention.plan(config),
  build: (config, parameters) => new LinearAttention(config, parameters),
});
