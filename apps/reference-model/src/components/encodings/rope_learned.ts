import { prefixed, subParameters, transpose, type Tensor } from "@x/kernels";
import { LearnedRope } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { settingsOf } from "./packaged.js";

/** The frequencies' place in the checkpoints. */
const PLACE = "rotary_emb";

/** RoPE with trained frequencies, each layer its own: `rotaryDim` (headDim), `base` of the first values, `layout`. */
export const ropeLearned: Factory<Encoding> = (spec, { name }) => {
  const settings = settingsOf(LearnedRope, spec, name, ["headDim"]);
  return {
    attention: (weights, { headDim }) => {
      const config = settings({ headDim });
      const set = new ParameterSet(weights);
      const plan = prefixed(PLACE, LearnedRope.plan(config));
      const own = new LearnedRope(config, subParameters(set.planned(plan), PLACE));
      const turn = (x: Tensor, positionIds: Tensor | undefined): Tensor =>
        transpose(own.apply(transpose(x, [0, 2, 1, 3]), { positionIds }), [0, 2, 1, 3]);
      return {
        rotate: (q, k, { positionIds }) => ({ q: turn(q, positionIds), k: turn(k, positionIds) }),
        parameters: () => set.all(),
      };
    },
    parameters: () => ({}),
  };
};
