import { ConfigError, prefixed, subParameters } from "@x/kernels";
import { T5Bias } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { settingsOf } from "./packaged.js";

/** The table's place in the checkpoints. */
const PLACE = "relative_attention_bias";

/**
 * A trained bias for each head and bucket of distances, one table for all layers: `numBuckets` (32), `maxDistance`
 * (128). T5 itself scales q.k by 1: the mixer's `scale`.
 */
export const t5: Factory<Encoding> = (spec, weights) => {
  const settings = settingsOf(T5Bias, spec, weights.name, ["numHeads", "bidirectional"]);
  const set = new ParameterSet(weights);
  let bias: T5Bias | undefined;
  return {
    attention: (_weights, { numHeads, bidirectional = false }) => {
      if (!bias) {
        const config = settings({ numHeads, bidirectional });
        bias = new T5Bias(config, subParameters(set.planned(prefixed(PLACE, T5Bias.plan(config))), PLACE));
      }
      const table = bias;
      if (table.config.numHeads !== numHeads)
        throw new ConfigError(
          weights.name,
          `its table has ${table.config.numHeads} heads, a layer has ${numHeads}; layers share it`,
        );
      return { scores: () => ({ modifiers: [table.modifier()] }), parameters: () => ({}) };
    },
    parameters: () => set.all(),
    dispose: () => {
      bias?.dispose();
    },
  };
};
