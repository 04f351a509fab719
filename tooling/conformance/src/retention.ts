import {
  GatedRetention,
  gatedRetention,
  linearAttention,
  MultiScaleRetention,
  retention as retain,
  ssd,
} from "@x/attention";
import type { Tensor } from "@x/kernels";
import { number, without } from "./config.js";
import type { Runner, RunnerContext } from "./runner.js";

/** The configuration, whose keys are the packages', and a state if the case has one. */
const options = ({ config, inputs }: RunnerContext): Record<string, unknown> => ({
  ...config,
  state: inputs["state"],
});

const PROJECTIONS: Readonly<Record<string, string>> = {
  wQ: "q_proj.weight",
  wK: "k_proj.weight",
  wV: "v_proj.weight",
  wG: "g_proj.weight",
  wDecay: "gt_proj.weight",
  wO: "o_proj.weight",
};

/** A layer's configuration, widths from its tensors, and its parameters by the packages' names. */
function layerOf({
  config,
  inputs,
  params,
}: RunnerContext): [config: never, parameters: Record<string, Tensor>] {
  const own = {
    ...without(config, "offset"),
    dim: inputs["x"]!.shape[2]!,
    valueDim: params["wV"]!.shape[0]!,
  };
  const named = Object.entries(params).map(([name, t]) => [PROJECTIONS[name] ?? name, t] as const);
  return [own as never, Object.fromEntries(named)];
}

/** A layer over a plain state. */
const layer =
  (make: (...args: ReturnType<typeof layerOf>) => GatedRetention | MultiScaleRetention): Runner =>
  (context) => {
    const { x, state } = context.inputs;
    const layer = make(...layerOf(context));
    const { out, state: next } = layer.outputs(x!, { state, offset: number(context.config, "offset", 0) });
    layer.dispose();
    return { out, state: next };
  };

export const retention: Readonly<Record<string, Runner>> = {
  retention: (context) => {
    const { q, k, v } = context.inputs;
    return retain(q!, k!, v!, options(context));
  },
  gated_retention: (context) => {
    const { q, k, v, logDecay } = context.inputs;
    return gatedRetention(q!, k!, v!, logDecay!, options(context));
  },
  linear_attention: (context) => {
    const { q, k, v, zState } = context.inputs;
    return { ...linearAttention(q!, k!, v!, { ...options(context), zState }) };
  },
  ssd: (context) => {
    const { x, dt, b, c } = context.inputs;
    return ssd(x!, dt!, b!, c!, context.params as never, options(context));
  },
  retention_layer: layer((...args) => new MultiScaleRetention(...args)),
  gated_retention_layer: layer((...args) => new GatedRetention(...args)),
};
