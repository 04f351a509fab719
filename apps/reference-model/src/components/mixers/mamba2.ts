import { Mamba2Block, type Mamba2Config } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/**
 * Mamba-2's block: `numHeads`, `headDim` (2 dim / numHeads), `stateSize` (64), `numGroups` (1), `normGroups` (1),
 * `normBeforeGate` (false), `convSize` (4), `chunkSize` (64).
 */
export const mamba2Mixer: Factory<Mixer> = sequenceMixer<Mamba2Config>({
  type: "mamba2",
  keys: [
    "numHeads",
    "headDim",
    "stateSize",
    "numGroups",
    "normGroups",
    "normBeforeGate",
    "convSize",
    "chunkSize",
  ],
  config: (f, dim) => {
    const numHeads = f.integer("numHeads");
    if (f.get("headDim") === undefined && (2 * dim) % numHeads !== 0)
      f.fail("numHeads", `is ${numHeads}; without headDim it must divide 2 dim, ${2 * dim}`);
    return {
      dim,
      numHeads,
      headDim: f.integer("headDim", (2 * dim) / numHeads),
      stateSize: f.integer("stateSize", 64),
      numGroups: f.integer("numGroups", 1),
      normGroups: f.integer("normGroups", 1),
      normBeforeGate: f.flag("normBeforeGate", false),
      convSize: f.integer("convSize", 4),
      chunkSize: f.integer("chunkSize", 64),
    };
  },
  plan: (config) => Mamba2Block.plan(config),
  build: (config, parameters) => new Mamba2Block(config, parameters),
});
