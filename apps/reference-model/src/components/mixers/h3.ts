import { H3, type H3Config } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/**
 * H3: `headDim` (1), `stateSize` (32), states of each head, `shiftTaps` (4), `discretization` ("zoh" or "bilinear"),
 * `dtMin` (0.001) and `dtMax` (0.1), the steps at the beginning.
 */
export const h3Mixer: Factory<Mixer> = sequenceMixer<H3Config>({
  type: "h3",
  keys: ["headDim", "stateSize", "shiftTaps", "discretization", "dtMin", "dtMax"],
  config: (f, dim) => ({
    dim,
    headDim: f.integer("headDim", 1),
    stateSize: f.integer("stateSize", 32),
    shiftTaps: f.integer("shiftTaps", 4),
    discretization: (f.get("discretization") ?? "zoh") as "zoh",
    dtMin: f.number("dtMin", 0.001),
    dtMax: f.number("dtMax", 0.1),
  }),
  plan: (config) => H3.plan(config),
  build: (config, parameters) => new H3(config, parameters),
});
