import { transpose } from "@x/kernels";
import { TransformerXl } from "@x/positional";
import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/** Content and distance apart in the scores: `modelDim` (dim; length of the sinusoid), `base`, `clampLength`. */
export const transformerXl: Factory<Encoding> = (spec, { name, model }) => {
  const f = new Fields(`${name}: position`, spec, ["type", "modelDim", "base", "clampLength"]);
  const modelDim = f.integer("modelDim", model.dim);
  const base = f.number("base", 10000);
  const clampLength = f.optionalInteger("clampLength", 0);
  return {
    attention: (weights, { numHeads, headDim }) => {
      const set = new ParameterSet(weights);
      const xl = new TransformerXl(
        { numHeads, headDim, modelDim, base, clampLength },
        {
          relProj: set.normal("r_net.weight", [numHeads * headDim, modelDim]),
          contentBias: set.constant("r_w_bias", [numHeads, headDim], 0),
          positionBias: set.constant("r_r_bias", [numHeads, headDim], 0),
        },
      );
      return {
        scores: (q, _keys, range) => {
          const { query, modifier } = xl.prepare(transpose(q, [0, 2, 1, 3]), range);
          return { query: transpose(query, [0, 2, 1, 3]), modifiers: [modifier] };
        },
        parameters: () => set.all(),
      };
    },
    parameters: () => ({}),
  };
};
