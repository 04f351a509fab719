import { glu, GLU_KINDS, gluFfn, gluHiddenDim } from "@x/ffn";
import { linear, type GluKind, type Tensor } from "@x/kernels";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { denseMemory } from "./memory.js";
import { countParameters, outStd, ParameterSet, STD } from "../parameters.js";

/**
 * A gated feed-forward block under Llama's names: `kind` ("swiglu"), `hiddenDim` (two thirds of 4 dim), `bias` (false).
 */
export const gluBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, gain, name } = weights;
  const f = new Fields(`${name}: glu`, spec, ["type", "kind", "hiddenDim", "bias"]);
  const kind = f.oneOf<GluKind>("kind", GLU_KINDS, "swiglu");
  const hidden = f.integer("hiddenDim", gluHiddenDim(model.dim));
  const set = new ParameterSet(weights);
  const wGate = set.normal("gate_proj.weight", [hidden, model.dim], STD * gain);
  const wUp = set.normal("up_proj.weight", [hidden, model.dim], STD * gain);
  const wDown = set.normal("down_proj.weight", [model.dim, hidden], outStd(model) * gain);
  const biased = f.flag("bias", false);
  const bias = (part: string, n: number): Tensor | undefined =>
    biased ? set.constant(`${part}.bias`, [n], 0) : undefined;
  const w = {
    wGate,
    wUp,
    wDown,
    bGate: bias("gate_proj", hidden),
    bUp: bias("up_proj", hidden),
    bDown: bias("down_proj", model.dim),
  };
  const inner = weights.innerNorm?.("ffn_layernorm", hidden);
  const parameters = (): Record<string, Tensor> => ({
    ...set.all(),
    ...Object.fromEntries(
      Object.entries(inner?.parameters() ?? {}).map(([key, t]) => [`ffn_layernorm.${key}`, t]),
    ),
  });
  return {
    forward: (x, context, residual) =>
      inner
        ? linear(inner.forward(glu(x, w, { kind }), context), wDown, w.bDown, { residual })
        : gluFfn(x, w, { kind, residual }),
    activeParameters: countParameters(parameters()),
    parameters,
    memory: denseMemory(wDown, w.bDown, (x, context) => {
      const m = glu(x, w, { kind });
      return inner ? inner.forward(m, context) : m;
    }),
  };
};
