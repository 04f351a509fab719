import { add, matmul, transpose } from "@x/kernels";
import { ShawRelative } from "@x/positional";
import { perLayer } from "./packaged.js";

/** Trained vectors of clipped distances, on keys and values: `maxDistance`, `useKey` and `useValue` (true). */
export const shaw = perLayer(ShawRelative, (own) => {
  const { relValue } = own.parameters();
  return {
    scores: (q, _keys, { scale }) => ({ modifiers: own.modifiers(transpose(q, [0, 2, 1, 3]), scale) }),
    ...(relValue
      ? {
          values: {
            index: own.index,
            add: (out, sums) => add(out, transpose(matmul(sums, relValue), [0, 2, 1, 3])),
          },
        }
      : {}),
  };
});
