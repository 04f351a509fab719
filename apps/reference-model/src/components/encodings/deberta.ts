import { repeat, transpose } from "@x/kernels";
import { DebertaDisentangled } from "@x/positional";
import { perLayer } from "./packaged.js";

/**
 * Scores of content with content, content with position and position with content: `maxDistance`, `positionBuckets`,
 * `c2p` and `p2c` (true), `p2cIndex`, `modelDim` (dim; width of the embedding of distances), `posKeyBias` and
 * `posQueryBias` (false). It sets attention's scale.
 */
export const deberta = perLayer(DebertaDisentangled, (own, { numHeads, numKvHeads }) => ({
  scores: (q, keys) => {
    const [query, key] = [transpose(q, [0, 2, 1, 3]), transpose(keys, [0, 2, 1, 3])];
    return own.prepare(query, numKvHeads === numHeads ? key : repeat(key, numHeads / numKvHeads, 1));
  },
}));
