import { activation as act, ACTIVATION_KINDS, ffn, type ActivationKind } from "@x/ffn";
import { linear, type Tensor } from "@x/kernels";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { countParameters, outStd, ParameterSet, STD } from "../parameters.js";
import { denseMemory } from "./memory.js";

/**
 * The plain block, act(x W1 + b1) W2 + b2, under GPT-2's names, stored [out, in]: `activation` ("relu"), `hiddenDim`
 * (4 dim), `bias` (true), `beta` for swish ("scalar" or "channel": learned from 1; absent: 1).
 */
export const ffnBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, gain, name } = weights;
  const f = new Fields(`${name}: ffn`, spec, ["type", "activation", "hiddenDim", "bias", "beta"]);
  const kind = f.oneOf<ActivationKind>("activation", ACTIVATION_KINDS, "relu");
  const hidden = f.integer("hiddenDim", 4 * model.dim);
  const betaKind = f.oneOf("beta", ["fixed", "scalar", "channel"] as const, "fixed");
  if (betaKind !== "fixed" && kind !== "swish")
    f.fail("beta", `is "${betaKind}"; only swish has one, not ${kind}`);
  const set = new ParameterSet(weights);
  const w1 = set.normal("c_fc.weight", [hidden, model.dim], STD * gain);
  const w2 = set.normal("c_proj.weight", [model.dim, hidden], outStd(model) * gain);
  const biased = f.flag("bias", true);
  const b1 = biased ? set.constant("c_fc.bias", [hidden], 0) : undefined;
  const b2 = biased ? set.constant("c_proj.bias", [model.dim], 0) : undefined;
  const beta =
    betaKind === "fixed" ? undefined : set.constant("beta", [betaKind === "scalar" ? 1 : hidden], 1);
  const inner = weights.innerNorm?.("ffn_layernorm", hidden);
  const parameters = (): Record<string, Tensor> => ({
    ...set.all(),
    ...Object.fromEntries(
      Object.entries(inner?.parameters() ?? {}).map(([key, t]) => [`ffn_layernorm.${key}`, t]),
    ),
  });
  const keys = (x: Tensor): Tensor => act(linear(x, w1, b1), kind, { beta });
  return {
    forward: (x, context, residual) =>
      inner
        ? linear(inner.forward(keys(x), context), w2, b2, { residual })
        : ffn(x, { w1, w2, b1, b2, beta }, { activation: kind, residual }),
    activeParameters: countParameters(parameters()),
    parameters,
    memory: denseMemory(w2, b2, (x, context) => (inner ? inner.forward(keys(x), context) : keys(x))),
  };
};
