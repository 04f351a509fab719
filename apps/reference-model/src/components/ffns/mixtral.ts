import { GLU_KINDS } from "@x/ffn";
import { add, type GluKind, type Tensor } from "@x/kernels";
import { loadBalanceLoss, mixtralMoe, router } from "@x/moe";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { expertMemory } from "./memory.js";
import { outStd, ParameterSet, STD } from "../parameters.js";

/**
 * Mixtral's mixture: `numExperts` gated experts of `hiddenDim` (SwiGLU unless `gluKind` says otherwise), `topK` of them
 * for a token, weights renormalised. The stacked experts are experts.{gate,up,down}_proj [experts, ..].
 */
export const mixtralBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, gain, name } = weights;
  const f = new Fields(`${name}: mixtral`, spec, ["type", "hiddenDim", "numExperts", "topK", "gluKind"]);
  const hidden = f.integer("hiddenDim");
  const numExperts = f.integer("numExperts");
  const topK = f.integer("topK", 2);
  if (topK > numExperts) f.fail("topK", `is ${topK}; it must not exceed numExperts, ${numExperts}`);
  const gluKind = f.oneOf<GluKind>("gluKind", GLU_KINDS, "swiglu");
  const set = new ParameterSet(weights);
  const gate = set.normal("gate.weight", [numExperts, model.dim]);
  const wGate = set.normal("experts.gate_proj", [numExperts, hidden, model.dim], STD * gain);
  const wUp = set.normal("experts.up_proj", [numExperts, hidden, model.dim], STD * gain);
  const wDown = set.normal("experts.down_proj", [numExperts, model.dim, hidden], outStd(model) * gain);
  const experts = { kind: "glu", wGate, wUp, wDown, gluKind } as const;
  const balance = model.balanceLoss;
  return {
    forward: (x, context, residual): Tensor => {
      const {
        out,
        logits,
        indices,
        weights: shares,
      } = mixtralMoe(x, gate, experts, { topK, renormalize: true });
      context.observe?.(`${name}.router`, { x, logits, indices, weights: shares });
      if (context.losses && balance > 0)
        context.losses.push(loadBalanceLoss(logits, { kind: "topk", topK, alpha: balance }).loss);
      return residual ? add(residual, out) : out;
    },
    activeParameters: gate.size + ((wGate.size + wUp.size + wDown.size) * topK) / numExperts,
    parameters: () => set.all(),
    memory: expertMemory(experts, (x) => router(x, gate, { topK, renormalize: true })),
  };
};
