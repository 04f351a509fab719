import { transpose } from "@x/kernels";
import { TransformerXlRelative } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { settingsOf } from "./packaged.js";

/** Content and distance apart in the scores: `modelDim` (dim; length of the sinusoid), `base`, `clampLength`. */
export const transformerXl: Factory<Encoding> = (spec, { name, model }) => {
  const settings = settingsOf(TransformerXlRelative, spec, name, ["numHeads", "headDim"]);
  return {
    attention: (weights, { numHeads, headDim }) => {
      const config = settings({ numHeads, headDim, modelDim: model.dim });
      const parameters = new ParameterSet(weights).planned(TransformerXlRelative.plan(config));
      const xl = new TransformerXlRelative(config, parameters);
      return {
        scores: (q, _keys, { scale, minDistance, maxDistance }) => {
          const { query, modifier } = xl.prepare(transpose(q, [0, 2, 1, 3]), {
            scale,
            minDistance,
            maxDistance,
          });
          return { query: transpose(query, [0, 2, 1, 3]), modifiers: [modifier] };
        },
        parameters: () => xl.parameters(),
      };
    },
    parameters: () => ({}),
  };
};
