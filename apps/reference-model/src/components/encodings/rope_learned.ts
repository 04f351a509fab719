import { transpose, type Tensor } from "@x/kernels";
import { LearnedRope } from "@x/positional";
import { perLayer } from "./packaged.js";

/** RoPE with trained frequencies, each layer its own: `rotaryDim` (headDim), `base` of the first values, `layout`. */
export const ropeLearned = perLayer(
  LearnedRope,
  (own) => {
    const turn = (x: Tensor, positionIds: Tensor | undefined): Tensor =>
      transpose(own.apply(transpose(x, [0, 2, 1, 3]), { positionIds }), [0, 2, 1, 3]);
    return { rotate: (q, k, { positionIds }) => ({ q: turn(q, positionIds), k: turn(k, positionIds) }) };
  },
  "rotary_emb",
);
