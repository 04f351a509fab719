import {
  deltaRule,
  gatedDeltaRule,
  gatedLinearAttention,
  GatedRetention,
  gatedRetention,
  kda,
  linearAttention,
  MultiScaleRetention,
  retention as retain,
  rwkv6,
  Rwkv6TimeMix,
  ssd,
} from "@x/attention";
import type { Tensor } from "@x/kernels";
import { chunksOf, join, part, pieces } from "../golden/chunks.js";
import { number, without } from "../golden/config.js";
import { withChunks, type Runner, type RunnerContext } from "../runner.js";

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

const TIME_MIX: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    ["X", "W", "K", "V", "R", "G"].map((j) => [`mix${j}`, `time_maa_${j.toLowerCase()}`]),
  ),
  mixW1: "time_maa_w1",
  mixW2: "time_maa_w2",
  timeDecay: "time_decay",
  decayW1: "time_decay_w1",
  decayW2: "time_decay_w2",
  timeFirst: "time_faaaa",
  wR: "receptance.weight",
  wK: "key.weight",
  wV: "value.weight",
  wG: "gate.weight",
  wO: "output.weight",
  normWeight: "ln_x.weight",
  normBias: "ln_x.bias",
};

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

/** A memory of keys and values, whole and in the case's pieces with the state carried. */
const memory = (
  run: (
    tokens: Readonly<Record<string, Tensor>>,
    options: Record<string, unknown>,
  ) => { readonly out: Tensor; readonly state: Tensor },
): Runner => {
  const call = (
    { config }: RunnerContext,
    { state, ...tokens }: Readonly<Record<string, Tensor>>,
  ): { out: Tensor; state: Tensor } => run(tokens, { ...without(config, "chunks"), state });
  return withChunks(
    (context) => ({ ...call(context, context.inputs) }),
    (context) => {
      const { state: given, ...tokens } = context.inputs;
      const outs: Tensor[] = [];
      let state = given;
      for (const piece of pieces(tokens["q"]!.shape[2]!, chunksOf(context.config)!)) {
        const own = Object.fromEntries(Object.entries(tokens).map(([name, t]) => [name, part(t, 2, piece)]));
        const next = call(context, { ...own, ...(state ? { state } : {}) });
        outs.push(next.out);
        state = next.state;
      }
      return { out: join(outs, 2), state: state! };
    },
  );
};

export const retention: Readonly<Record<string, Runner>> = {
  retention: (context) => {
    const { q, k, v } = context.inputs;
    return retain(q!, k!, v!, options(context));
  },
  delta_rule: memory(({ q, k, v, beta }, options) => deltaRule(q!, k!, v!, beta!, options)),
  gated_delta_rule: memory(({ q, k, v, g, beta }, options) => gatedDeltaRule(q!, k!, v!, g!, beta!, options)),
  kda: memory(({ q, k, v, g, beta }, options) => kda(q!, k!, v!, g!, beta!, options)),
  gated_linear_attention: memory(({ q, k, v, g }, options) => gatedLinearAttention(q!, k!, v!, g!, options)),
  gated_retention: (context) => {
    const { q, k, v, logDecay } = context.inputs;
    return gatedRetention(q!, k!, v!, logDecay!, options(context));
  },
  linear_attention: (context) => {
    const { q, k, v, zState } = context.inputs;
    return { ...linearAttention(q!, k!, v!, { ...options(context), zState }) };
  },
  rwkv6: ({ inputs, params }) => {
    const { r, k, v, w, state } = inputs;
    return rwkv6(r!, k!, v!, w!, params["u"]!, { state });
  },
  rwkv6_time_mix: ({ config, inputs, params }) => {
    const named = Object.entries(params).map(([name, t]) => [TIME_MIX[name] ?? name, t] as const);
    const own = {
      ...config,
      dim: inputs["x"]!.shape[2]!,
      mixRank: params["mixW2"]!.shape[1]!,
      decayRank: params["decayW1"]!.shape[1]!,
    };
    const layer = new Rwkv6TimeMix(own as never, Object.fromEntries(named));
    return { ...layer.outputs(inputs["x"]!, { state: inputs["state"], prev: inputs["prev"] }) };
  },
  ssd: (context) => {
    const { x, dt, b, c } = context.inputs;
    return ssd(x!, dt!, b!, c!, context.params as never, options(context));
  },
  retention_layer: layer((...args) => new MultiScaleRetention(...args)),
  gated_retention_layer: layer((...args) => new GatedRetention(...args)),
};
