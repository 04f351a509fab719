import { transpose } from "@x/kernels";
import { TransformerXlRelative } from "@x/positional";
import { perLayer } from "./packaged.js";

/** Content and distance apart in the scores: `modelDim` (dim; length of the sinusoid), `base`, `clampLength`. */
export const transformerXl = perLayer(TransformerXlRelative, (own) => ({
  scores: (q, _keys, { scale, minDistance, maxDistance }) => {
    const range = { scale, minDistance, maxDistance };
    const { query, modifier } = own.prepare(transpose(q, [0, 2, 1, 3]), range);
    return { query: transpose(query, [0, 2, 1, 3]), modifiers: [modifier] };
  },
}));
