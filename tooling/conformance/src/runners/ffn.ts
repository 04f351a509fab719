import {
  activation,
  ffn as ffnBlock,
  glu,
  gluFfn,
  gluHiddenDim,
  splitGateUp,
  type ActivationKind,
  type Beta,
  type GluKind,
} from "@x/ffn";
import { number, optionalNumber, text } from "../golden/config.js";
import { memory } from "./ffn_memory.js";
import { kan } from "./kan.js";
import type { Runner, RunnerContext } from "../runner.js";

/** beta of swish: the param wins over the config. */
function betaOf({ config, params }: RunnerContext): { beta?: Beta } {
  if (params["beta"]) return { beta: params["beta"] };
  const value = optionalNumber(config, "beta");
  return value === undefined ? {} : { beta: value };
}

export const ffn: Readonly<Record<string, Runner>> = {
  ...kan,
  ...memory,
  activation: (context) => ({
    out: activation(context.inputs["x"]!, text(context.config, "kind") as ActivationKind, betaOf(context)),
  }),
  ffn: (context) => {
    const { w1, w2, b1, b2 } = context.params;
    return {
      out: ffnBlock(
        context.inputs["x"]!,
        { w1: w1!, w2: w2!, b1, b2, ...betaOf(context) },
        { activation: text(context.config, "activation", "relu") as ActivationKind },
      ),
    };
  },
  glu: (context) => {
    const { wGate, wUp, bGate, bUp } = context.params;
    return {
      out: glu(
        context.inputs["x"]!,
        { wGate: wGate!, wUp: wUp!, bGate, bUp, ...betaOf(context) },
        { kind: text(context.config, "kind", "swiglu") as GluKind },
      ),
    };
  },
  glu_ffn: (context) => {
    const { wGate, wUp, wDown, bGate, bUp, bDown } = context.params;
    return {
      out: gluFfn(
        context.inputs["x"]!,
        { wGate: wGate!, wUp: wUp!, wDown: wDown!, bGate, bUp, bDown, ...betaOf(context) },
        { kind: text(context.config, "kind", "swiglu") as GluKind },
      ),
    };
  },
  clamped_swiglu: ({ config, inputs, params }) => {
    const { wGateUp, bGateUp, wDown, bDown } = params;
    const fused = wGateUp && splitGateUp(wGateUp);
    const bias = bGateUp && splitGateUp(bGateUp, 0);
    const weights = {
      wGate: fused?.gate ?? params["wGate"]!,
      wUp: fused?.up ?? params["wUp"]!,
      bGate: bias?.gate ?? params["bGate"],
      bUp: bias?.up ?? params["bUp"],
      beta: number(config, "alpha", 1.702),
    };
    const numbers = { limit: number(config, "limit", 7), upOffset: number(config, "upOffset", 1) };
    return { out: gluFfn(inputs["x"]!, { ...weights, wDown: wDown!, bDown }, numbers) };
  },
  relu2: ({ inputs, params }) => {
    const { wUp, wDown, bUp, bDown } = params;
    const weights = { w1: wUp!, w2: wDown!, b1: bUp, b2: bDown };
    return { out: ffnBlock(inputs["x"]!, weights, { activation: "squaredRelu" }) };
  },
  glu_hidden_dim: ({ config, inputs, host }) => {
    const multiplier = optionalNumber(config, "multiplier");
    const dims = Array.from(host("dim"), (dim) =>
      gluHiddenDim(dim, {
        expansion: number(config, "expansion", 4),
        multipleOf: number(config, "multipleOf", 1),
        multiplier,
      }),
    );
    return { hiddenDim: { shape: inputs["dim"]!.shape, data: Int32Array.from(dims) } };
  },
};
