import { Lru, type LruConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/** Linear recurrent unit: `stateSize` (dim), `rMin` (0.9), `rMax` (0.999), the ring of |lambda| at the beginning. */
export const lruMixer: Factory<Mixer> = sequenceMixer<LruConfig>({
  type: "lru",
  keys: ["stateSize", "rMin", "rMax"],
  config: (f, dim) => ({
    dim,
    stateSize: f.integer("stateSize", dim),
    rMin: f.number("rMin", 0.9),
    rMax: f.number("rMax", 0.999),
  }),
  plan: (config) => Lru.plan(config),
  build: (config, parameters) => new Lru(config, parameters),
});
