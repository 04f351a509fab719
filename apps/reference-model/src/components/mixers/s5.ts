import { S5, type S5Config } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/**
 * S5: `stateSize` (dim), `discretization` ("zoh" or "bilinear"), `clipEigs` (false), `dtMin` (0.001) and `dtMax` (0.1),
 * the steps at the beginning.
 */
export const s5Mixer: Factory<Mixer> = sequenceMixer<S5Config>({
  type: "s5",
  keys: ["stateSize", "discretization", "clipEigs", "dtMin", "dtMax"],
  config: (f, dim) => ({
    dim,
    stateSize: f.integer("stateSize", dim),
    discretization: (f.get("discretization") ?? "zoh") as "zoh",
    clipEigs: f.flag("clipEigs", false),
    dtMin: f.number("dtMin", 0.001),
    dtMax: f.number("dtMax", 0.1),
  }),
  plan: (config) => S5.plan(config),
  build: (config, parameters) => new S5(config, parameters),
});
