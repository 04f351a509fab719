import { MambaBlock, type MambaConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/** Mamba's block: `innerDim` (2 dim), `stateSize` (16), `convSize` (4), `dtRank` (ceil(dim / 16)), `bias` (false). */
export const mambaMixer: Factory<Mixer> = sequenceMixer<MambaConfig>({
  type: "mamba",
  keys: ["innerDim", "stateSize", "convSize", "dtRank", "bias"],
  config: (f, dim) => ({
    dim,
    innerDim: f.integer("innerDim", 2 * dim),
    stateSize: f.integer("stateSize", 16),
    convSize: f.integer("convSize", 4),
    dtRank: f.integer("dtRank", Math.ceil(dim / 16)),
    bias: f.flag("bias", false),
  }),
  plan: (config) => MambaBlock.plan(config),
  build: (config, parameters) => new MambaBlock(config, parameters),
});
