import { add, mul, type Tensor } from "@x/kernels";
import { switchMoe, type SwitchMoeResult } from "@x/moe";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { expertMemory } from "./memory.js";
import { CAPACITY_KEYS, capacityFields, EXPERT_KEYS, expertStacks } from "./expert_stacks.js";

/**
 * Switch: one expert a token. In training an expert has `capacityFactor` (1.25) times its even share of slots, and
 * tokens beyond are dropped; else nothing is. `zLoss` (0) is the router z-loss's factor.
 */
export const switchBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, name } = weights;
  const f = new Fields(`${name}: switch`, spec, [...EXPERT_KEYS, ...CAPACITY_KEYS, "zLoss"]);
  const zFactor = f.number("zLoss", 0);
  const capacity = capacityFields(f);
  const set = new ParameterSet(weights);
  const { experts, numExperts, each } = expertStacks(f, set, weights);
  const router = set.normal("router.classifier.weight", [numExperts, model.dim]);
  const alpha = model.balanceLoss;
  const run = (x: Tensor, training: boolean): SwitchMoeResult =>
    switchMoe(x, router, experts, {
      ...(training ? capacity : { capacity: x.size / model.dim }),
      groupBy: capacity.groupBy,
      alpha,
    });
  return {
    forward: (x, context, residual) => {
      const r = run(x, context.training);
      context.observe?.(`${name}.router`, {
        x,
        logits: r.logits,
        indices: r.indices.reshape([...r.indices.shape, 1]),
        weights: r.weights.reshape([...r.weights.shape, 1]),
      });
      if (context.losses && (alpha > 0 || zFactor > 0))
        context.losses.push(zFactor > 0 ? add(r.auxLoss, mul(r.zLoss, zFactor)) : r.auxLoss);
      return residual ? add(residual, r.out) : r.out;
    },
    activeParameters: router.size + each,
    parameters: () => set.all(),
    memory: expertMemory(experts, (x) => run(x, false)),
  };
};
