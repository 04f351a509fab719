import { add, randomUniform, type Tensor } from "@x/kernels";
import { gshardMoe, type GShardMoeResult } from "@x/moe";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { ParameterSet, streamOf } from "../parameters.js";
import { StepCounter } from "../step_counter.js";
import { expertMemory } from "./memory.js";
import { CAPACITY_KEYS, capacityFields, EXPERT_KEYS, expertStacks } from "./expert_stacks.js";

/**
 * GShard: two experts a token, with capacity in training as in `switch`. `secondPolicy` all, none, threshold (above
 * `secondThreshold`, 0.2) or random says which second choices are tried; random is for training (by the model's seed,
 * another draw in each step), outside it all are.
 */
export const gshardBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, name, seed } = weights;
  const known = [...EXPERT_KEYS, ...CAPACITY_KEYS, "secondPolicy", "secondThreshold", "countChoices"];
  const f = new Fields(`${name}: gshard`, spec, known);
  const own = {
    secondPolicy: f.oneOf("secondPolicy", ["all", "none", "threshold", "random"], "all"),
    secondThreshold: f.number("secondThreshold", 0.2),
    countChoices: f.flag("countChoices", true),
  };
  const capacity = capacityFields(f);
  const set = new ParameterSet(weights);
  const { experts, numExperts, each } = expertStacks(f, set, weights);
  const router = set.normal("gate.weight", [numExperts, model.dim]);
  const alpha = model.balanceLoss;
  const draws = own.secondPolicy === "random" ? new StepCounter(weights) : undefined;
  const run = (x: Tensor, training: boolean): GShardMoeResult => {
    const shared = { groupBy: capacity.groupBy, alpha };
    if (!training) {
      const secondPolicy = draws ? "all" : own.secondPolicy;
      return gshardMoe(x, router, experts, { ...own, ...shared, secondPolicy, capacity: x.size / model.dim });
    }
    const uniform =
      draws && randomUniform(x.gpu, x.shape.slice(0, -1), { seed, stream: streamOf(name), step: draws.step });
    return gshardMoe(x, router, experts, { ...own, ...shared, ...capacity, uniform });
  };
  return {
    forward: (x, context, residual) => {
      const r = run(x, context.training);
      const { logits, indices } = r;
      context.observe?.(`${name}.router`, { x, logits, indices, weights: r.weights });
      if (context.losses && alpha > 0) context.losses.push(r.auxLoss);
      return residual ? add(residual, r.out) : r.out;
    },
    activeParameters: router.size + each * (own.secondPolicy === "none" ? 1 : 2),
    parameters: () => set.all(),
    memory: expertMemory(experts, (x) => run(x, false)),
    afterStep: () => draws?.advance(),
    dispose: () => draws?.dispose(),
  };
};
