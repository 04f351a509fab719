import { add } from "@x/kernels";
import { expertChoice } from "@x/moe";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { CAPACITY_KEYS, capacityFields, EXPERT_KEYS, expertStacks } from "./expert_stacks.js";

/**
 * Expert choice: each expert takes its best tokens of the sequence, `capacityFactor` (1.25) experts a token on average.
 * Not causal: in a decoder a token's output depends on later ones, and decoding chooses among the tokens it is given.
 */
export const expertChoiceBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, name } = weights;
  const f = new Fields(`${name}: expertChoice`, spec, [...EXPERT_KEYS, ...CAPACITY_KEYS]);
  const capacity = capacityFields(f);
  const set = new ParameterSet(weights);
  const { experts, numExperts, each } = expertStacks(f, set, weights);
  const router = set.normal("gate.weight", [numExperts, model.dim]);
  return {
    forward: (x, context, residual) => {
      const { out, logits, tokenIndices, gates } = expertChoice(x, router, experts, capacity);
      context.observe?.(`${name}.choice`, { x, logits, tokenIndices, gates });
      return residual ? add(residual, out) : out;
    },
    activeParameters: router.size + Math.min(numExperts, capacity.capacityFactor ?? 1) * each,
    parameters: () => set.all(),
  };
};
