import { repeat, transpose } from "@x/kernels";
import { DebertaDisentangled } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { settingsOf } from "./packaged.js";

/**
 * Scores of content with content, content with position and position with content: `maxDistance`, `positionBuckets`,
 * `c2p` and `p2c` (true), `p2cIndex`, `modelDim` (dim; width of the embedding of distances), `posKeyBias` and
 * `posQueryBias` (false). It sets attention's scale.
 */
export const deberta: Factory<Encoding> = (spec, { name, model }) => {
  const settings = settingsOf(DebertaDisentangled, spec, name, ["numHeads", "headDim"]);
  const made: DebertaDisentangled[] = [];
  return {
    attention: (weights, { numHeads, numKvHeads, headDim }) => {
      const config = settings({ numHeads, headDim, modelDim: model.dim });
      const parameters = new ParameterSet(weights).planned(DebertaDisentangled.plan(config));
      const own = new DebertaDisentangled(config, parameters);
      made.push(own);
      return {
        scores: (q, keys) => {
          const [query, key] = [transpose(q, [0, 2, 1, 3]), transpose(keys, [0, 2, 1, 3])];
          return own.prepare(query, numKvHeads === numHeads ? key : repeat(key, numHeads / numKvHeads, 1));
        },
        parameters: () => own.parameters(),
      };
    },
    parameters: () => ({}),
    dispose: () => {
      for (const part of made) part.dispose();
    },
  };
};
