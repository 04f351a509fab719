import { repeat, transpose } from "@x/kernels";
import { DebertaDisentangled, type DebertaSettings } from "@x/positional";
import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/**
 * Scores of content with content, content with position and position with content: `maxDistance`, `positionBuckets`,
 * `c2p` and `p2c` (true), `p2cIndex`, `modelDim` (dim; width of the embedding of distances). It sets attention's scale.
 */
export const deberta: Factory<Encoding> = (spec, { name, model }) => {
  const f = new Fields(`${name}: position`, spec, [
    "type",
    "maxDistance",
    "positionBuckets",
    "c2p",
    "p2c",
    "p2cIndex",
    "modelDim",
  ]);
  const maxDistance = f.integer("maxDistance");
  const positionBuckets = f.optionalInteger("positionBuckets");
  const [c2p, p2c] = [f.flag("c2p", true), f.flag("p2c", true)];
  const p2cIndex = f.oneOf("p2cIndex", ["queryMinusKey", "keyMinusQuery"], "queryMinusKey");
  const modelDim = f.integer("modelDim", model.dim);
  const made: DebertaDisentangled[] = [];
  return {
    attention: (weights, { numHeads, numKvHeads, headDim }) => {
      const set = new ParameterSet(weights);
      const settings: DebertaSettings = {
        numHeads,
        headDim,
        modelDim,
        maxDistance,
        positionBuckets,
        c2p,
        p2c,
        p2cIndex,
      };
      const projection = (at: string) => set.normal(at, [numHeads * headDim, modelDim]);
      const own = new DebertaDisentangled(settings, {
        relEmbedding: set.normal("rel_embeddings.weight", [2 * (positionBuckets ?? maxDistance), modelDim]),
        posKeyWeight: c2p ? projection("pos_key_proj.weight") : undefined,
        posQueryWeight: p2c ? projection("pos_query_proj.weight") : undefined,
      });
      made.push(own);
      return {
        scores: (q, keys) => {
          const [query, key] = [transpose(q, [0, 2, 1, 3]), transpose(keys, [0, 2, 1, 3])];
          return own.prepare(query, numKvHeads === numHeads ? key : repeat(key, numHeads / numKvHeads, 1));
        },
        parameters: () => set.all(),
      };
    },
    parameters: () => ({}),
    dispose: () => {
      for (const part of made) part.dispose();
    },
  };
};
