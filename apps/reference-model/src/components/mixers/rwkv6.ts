import { Rwkv6TimeMix, type Rwkv6TimeMixConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/** RWKV-6's time mixing: `numHeads`, `normEps` (64e-5), `mixRank` (32) and `decayRank` (64). */
export const rwkv6Mixer: Factory<Mixer> = sequenceMixer<Rwkv6TimeMixConfig>({
  type: "rwkv6",
  keys: ["numHeads", "normEps", "mixRank", "decayRank"],
  config: (f, dim) => ({
    dim,
    numHeads: f.integer("numHeads"),
    normEps: f.number("normEps", 64e-5),
    mixRank: f.integer("mixRank", 32),
    decayRank: f.integer("decayRank", 64),
  }),
  plan: (config) => Rwkv6TimeMix.plan(config),
  build: (config, parameters) => new Rwkv6TimeMix(config, parameters),
});
