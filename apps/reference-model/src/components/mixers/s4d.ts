import { S4d, type S4dConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/**
 * S4D: `stateSize` (32), states of each channel; `outputBlock` ("glu" or "none"), `discretization` ("zoh" or "bilinear"),
 * `dtMin` (0.001) and `dtMax` (0.1), the steps at the beginning.
 */
export const s4dMixer: Factory<Mixer> = sequenceMixer<S4dConfig>({
  type: "s4d",
  keys: ["stateSize", "outputBlock", "discretization", "dtMin", "dtMax"],
  config: (f, dim) => ({
    dim,
    stateSize: f.integer("stateSize", 32),
    outputBlock: (f.get("outputBlock") ?? "glu") as "glu",
    discretization: (f.get("discretization") ?? "zoh") as "zoh",
    dtMin: f.number("dtMin", 0.001),
    dtMax: f.number("dtMax", 0.1),
  }),
  plan: (config) => S4d.plan(config),
  build: (config, parameters) => new S4d(config, parameters),
});
