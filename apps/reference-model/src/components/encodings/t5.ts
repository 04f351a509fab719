import { ConfigError } from "@x/kernels";
import { T5Bias } from "@x/positional";
import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/**
 * A trained bias for each head and bucket of distances, one table for all layers: `numBuckets` (32), `maxDistance`
 * (128). T5 itself scales q.k by 1: the mixer's `scale`.
 */
export const t5: Factory<Encoding> = (spec, weights) => {
  const f = new Fields(`${weights.name}: position`, spec, ["type", "numBuckets", "maxDistance"]);
  const config = {
    numBuckets: f.integer("numBuckets", 32),
    maxDistance: f.integer("maxDistance", 128),
    bidirectional: false,
  };
  const set = new ParameterSet(weights);
  let bias: T5Bias | undefined;
  return {
    attention: (_weights, { numHeads }) => {
      const table = (bias ??= new T5Bias(
        set.normal("relative_attention_bias.weight", [config.numBuckets, numHeads]),
        config,
      ));
      if (table.weight.shape[1] !== numHeads)
        throw new ConfigError(
          weights.name,
          `its table has ${table.weight.shape[1]!} heads, a layer has ${numHeads}; layers share it`,
        );
      return { scores: () => ({ modifiers: [table.modifier()] }), parameters: () => ({}) };
    },
    parameters: () => set.all(),
    dispose: () => {
      bias?.dispose();
    },
  };
};
