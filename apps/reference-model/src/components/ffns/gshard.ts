import { add } from "@x/kernels";
import { gshardMoe } from "@x/moe";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { CAPACITY_KEYS, capacityFields, EXPERT_KEYS, expertStacks } from "./expert_stacks.js";

/**
 * GShard: two experts a token, with capacity in training as in `switch`. `secondPolicy` all, none or threshold (above
 * `secondThreshold`, 0.2) says which second choices are tried.
 */
export const gshardBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, name } = weights;
  const known = [...EXPERT_KEYS, ...CAPACITY_KEYS, "secondPolicy", "secondThreshold", "countChoices"];
  const f = new Fields(`${name}: gshard`, spec, known);
  const own = {
    secondPolicy: f.oneOf("secondPolicy", ["all", "none", "threshold"], "all"),
    secondThreshold: f.number("secondThreshold", 0.2),
    countChoices: f.flag("countChoices", true),
  };
  const capacity = capacityFields(f);
  const set = new ParameterSet(weights);
  const { experts, numExperts, each } = expertStacks(f, set, weights);
  const router = set.normal("gate.weight", [numExperts, model.dim]);
  const alpha = model.balanceLoss;
  return {
    forward: (x, context, residual) => {
      const options = context.training ? capacity : { capacity: x.size / model.dim };
      const r = gshardMoe(x, router, experts, { ...own, ...options, groupBy: capacity.groupBy, alpha });
      const { logits, indices } = r;
      context.observe?.(`${name}.router`, { x, logits, indices, weights: r.weights });
      if (context.losses && alpha > 0) context.losses.push(r.auxLoss);
      return residual ? add(residual, r.out) : r.out;
    },
    activeParameters: router.size + each * (own.secondPolicy === "none" ? 1 : 2),
    parameters: () => set.all(),
  };
};
