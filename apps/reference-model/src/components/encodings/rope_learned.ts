import { transpose, type Tensor } from "@x/kernels";
import { learnedRope, plainFrequencies } from "@x/positional";
import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/** RoPE with trained frequencies, each layer its own: `rotaryDim` (headDim), `base` of the first values, `layout`. */
export const ropeLearned: Factory<Encoding> = (spec, { name, gpu }) => {
  const f = new Fields(`${name}: position`, spec, ["type", "rotaryDim", "base", "layout"]);
  const base = f.number("base", 10000);
  const layout = f.oneOf("layout", ["half", "interleaved"], "half");
  return {
    attention: (weights, { headDim }) => {
      const d = f.integer("rotaryDim", headDim, 2);
      if (d % 2 !== 0 || d > headDim) f.fail("rotaryDim", `is ${d}; it must be even and at most ${headDim}`);
      const set = new ParameterSet(weights);
      const invFreq = set.values("rotary_emb.inv_freq", [d / 2], () => plainFrequencies({ d, base }));
      const turn = (x: Tensor, positionIds: Tensor | undefined): Tensor =>
        transpose(
          learnedRope(gpu, transpose(x, [0, 2, 1, 3]), invFreq, { layout, positionIds }),
          [0, 2, 1, 3],
        );
      return {
        rotate: (q, k, { positionIds }) => ({ q: turn(q, positionIds), k: turn(k, positionIds) }),
        parameters: () => set.all(),
      };
    },
    parameters: () => ({}),
  };
};
