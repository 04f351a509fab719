import { GatedLongConv, type GatedLongConvConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/**
 * Gated long convolutions as in Hyena, with explicit filters: `taps`, the tokens that a filter reaches back over, `order`
 * (2), `shortTaps` (3).
 */
export const gatedLongConvMixer: Factory<Mixer> = sequenceMixer<GatedLongConvConfig>({
  type: "gatedLongConv",
  keys: ["taps", "order", "shortTaps"],
  config: (f, dim) => ({
    dim,
    taps: f.integer("taps"),
    order: f.integer("order", 2),
    shortTaps: f.integer("shortTaps", 3),
  }),
  plan: (config) => GatedLongConv.plan(config),
  build: (config, parameters) => new GatedLongConv(config, parameters),
});
