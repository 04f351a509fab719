import { GriffinBlock, type GriffinConfig } from "@x/attention";
import type { Factory, Mixer } from "../contract.js";
import { sequenceMixer } from "./sequence.js";

/** Griffin's recurrent block: `lruWidth` (dim), `numBlocks` (1) of the gates' weights, `convSize` (4). */
export const griffinMixer: Factory<Mixer> = sequenceMixer<GriffinConfig>({
  type: "griffin",
  keys: ["lruWidth", "numBlocks", "convSize"],
  config: (f, dim) => ({
    dim,
    lruWidth: f.integer("lruWidth", dim),
    numBlocks: f.integer("numBlocks", 1),
    convSize: f.integer("convSize", 4),
  }),
  plan: (config) => GriffinBlock.plan(config),
  build: (config, parameters) => new GriffinBlock(config, parameters),
});
