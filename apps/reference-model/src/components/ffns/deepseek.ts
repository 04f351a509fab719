import { add, cast, noGrad, type Tensor } from "@x/kernels";
import { auxFreeBias, countChoices, deepseekBalanceLoss, deepseekMoe, type GatedExperts } from "@x/moe";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { outStd, ParameterSet, STD } from "../parameters.js";
import { expertStacks } from "./expert_stacks.js";
import { expertMemory } from "./memory.js";

/**
 * DeepSeekMoE under DeepSeek's names: `numExperts` fine-grained experts of `hiddenDim`, `topK` of them a token, and
 * `numShared` (0) that see every token. `scoreFunction` softmax (V1, V2) or sigmoid (V3), `numGroups`, `topkGroups`,
 * `groupScore`, `normTopkProb`, `routedScalingFactor` as in the papers. With `updateSpeed` (0) a choosing bias balances
 * the load after each step; the model's `balanceLoss` is the balancing loss's factor.
 */
export const deepseekBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, gain, name, gpu } = weights;
  const f = new Fields(`${name}: deepseek`, spec, [
    "type",
    "hiddenDim",
    "numExperts",
    "gluKind",
    "topK",
    "numShared",
    "scoreFunction",
    "numGroups",
    "topkGroups",
    "groupScore",
    "normTopkProb",
    "routedScalingFactor",
    "updateSpeed",
  ]);
  const scoreFunction = f.oneOf("scoreFunction", ["softmax", "sigmoid"], "softmax");
  const v3 = scoreFunction === "sigmoid";
  const numGroups = f.integer("numGroups", 1);
  const options = {
    topK: f.integer("topK", 2),
    scoreFunction,
    numGroups,
    topkGroups: f.integer("topkGroups", numGroups),
    groupScore: f.oneOf("groupScore", ["max", "top2"], v3 ? "top2" : "max"),
    normTopkProb: f.flag("normTopkProb", v3),
    routedScalingFactor: f.number("routedScalingFactor", 1),
  };
  const updateSpeed = f.number("updateSpeed", 0);
  const width = f.integer("numShared", 0, 0) * f.integer("hiddenDim");
  const set = new ParameterSet(weights);
  const stacks = expertStacks(f, set, weights);
  const { numExperts, each } = stacks;
  const experts = stacks.experts as GatedExperts;
  const router = set.normal("gate.weight", [numExperts, model.dim]);
  const shared =
    width > 0
      ? {
          wGate: set.normal("shared_experts.gate_proj.weight", [width, model.dim], STD * gain),
          wUp: set.normal("shared_experts.up_proj.weight", [width, model.dim], STD * gain),
          wDown: set.normal("shared_experts.down_proj.weight", [model.dim, width], outStd(model) * gain),
        }
      : undefined;
  const buffers = new ParameterSet(weights);
  let bias: Tensor | undefined;
  let counts: Tensor | undefined;
  if (updateSpeed > 0) {
    bias = buffers.constant("gate.e_score_correction_bias", [numExperts], 0);
    counts = gpu.keep(gpu.zeros([numExperts], "i32"));
    weights.made.push(counts);
  }
  const balance = model.balanceLoss;
  return {
    forward: (x, context, residual) => {
      const r = deepseekMoe(x, router, experts, shared, { ...options, bias });
      const { out, logits, indices } = r;
      context.observe?.(`${name}.router`, { x, logits, indices, weights: r.weights });
      if (context.training && counts) {
        const own = counts;
        noGrad(() => {
          gpu.copy(
            cast(countChoices(indices, { groups: 1, experts: numExperts }), "i32").reshape([numExperts]),
            own,
          );
        });
      }
      if (context.losses && balance > 0)
        context.losses.push(
          deepseekBalanceLoss(logits, indices, {
            scoreFunction,
            alpha: balance,
            groupBy: v3 ? "sequence" : "batch",
          }).loss,
        );
      return residual ? add(residual, out) : out;
    },
    activeParameters: router.size + options.topK * each + 3 * width * model.dim,
    parameters: () => set.all(),
    memory: expertMemory(
      experts,
      (x) => deepseekMoe(x, router, experts, undefined, { ...options, bias }),
      shared,
    ),
    buffers: () => buffers.all(),
    afterStep: () => {
      if (!bias || !counts) return;
      const [from, by] = [bias, counts];
      gpu.scope(() => {
        gpu.copy(auxFreeBias(from, by, { updateSpeed }), from);
      });
    },
    dispose: () => {
      counts?.dispose();
    },
  };
};
