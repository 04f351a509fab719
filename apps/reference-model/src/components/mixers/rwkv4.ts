import { Rwkv4TimeMix, type Rwkv4TimeMixConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/** RWKV-4's time mixing: `attentionDim` (dim), the width of r, k and v. */
export const rwkv4Mixer: Factory<Mixer> = sequenceMixer<Rwkv4TimeMixConfig>({
  type: "rwkv4",
  keys: ["attentionDim"],
  config: (f, dim) => ({ dim, attentionDim: f.integer("attentionDim", dim) }),
  plan: (config) => Rwkv4TimeMix.plan(config),
  build: (config, parameters) => new Rwkv4TimeMix(config, parameters),
});
