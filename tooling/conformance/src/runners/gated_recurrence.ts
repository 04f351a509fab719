import {
  GriffinBlock,
  Mamba2Block,
  MambaBlock,
  rgLru,
  Rwkv4ChannelMix,
  Rwkv4TimeMix,
  selectiveScan,
  type Discretization,
} from "@x/attention";
import { configFor, flag, number, text } from "../golden/config.js";
import type { Runner } from "../runner.js";
import type { Tensor } from "@x/kernels";

/** The given tensors under the names that a component has for them. */
function renamed(
  names: Readonly<Record<string, string>>,
  given: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(given).map(([name, t]) => [names[name] ?? name, stored(name, t)]));
}

/** In the shape of checkpoints: a convolution's weight is [channels, 1, taps], and RWKV's factors are [1, 1, dim]. */
function stored(name: string, t: Tensor): Tensor {
  if (name === "convWeight") return t.reshape([t.shape[0]!, 1, t.shape[1]!]);
  return name.startsWith("mix") ? t.reshape([1, 1, t.size]) : t;
}

const MAMBA: Readonly<Record<string, string>> = {
  wIn: "in_proj.weight",
  bIn: "in_proj.bias",
  convWeight: "conv1d.weight",
  convBias: "conv1d.bias",
  wX: "x_proj.weight",
  wDt: "dt_proj.weight",
  bDt: "dt_proj.bias",
  aLog: "A_log",
  dSkip: "D",
  wOut: "out_proj.weight",
  bOut: "out_proj.bias",
};

const MAMBA2: Readonly<Record<string, string>> = {
  ...MAMBA,
  dtBias: "dt_bias",
  normWeight: "norm.weight",
};

const GRIFFIN: Readonly<Record<string, string>> = {
  wX: "linear_x.weight",
  bX: "linear_x.bias",
  wY: "linear_y.weight",
  bY: "linear_y.bias",
  wOut: "linear_out.weight",
  bOut: "linear_out.bias",
  convWeight: "conv_1d.weight",
  convBias: "conv_1d.bias",
  wInput: "rg_lru.input_gate_weight",
  bInput: "rg_lru.input_gate_bias",
  wRec: "rg_lru.recurrent_gate_weight",
  bRec: "rg_lru.recurrent_gate_bias",
  aParam: "rg_lru.recurrent_param",
};

const RWKV: Readonly<Record<string, string>> = {
  mixR: "time_mix_receptance",
  mixK: "time_mix_key",
  mixV: "time_mix_value",
  wR: "receptance.weight",
  wK: "key.weight",
  wV: "value.weight",
  wO: "output.weight",
  timeDecay: "time_decay",
  timeFirst: "time_first",
};

/** Runners of the mechanisms whose decay depends on the token: Mamba, Griffin, RWKV-4. */
export const gatedRecurrence: Readonly<Record<string, Runner>> = {
  selective_scan: ({ config, inputs, params }) => {
    const { u, delta, b, c, z, state } = inputs;
    const { a, dSkip, deltaBias } = params;
    return selectiveScan(u!, delta!, a!, b!, c!, {
      z,
      state,
      dSkip,
      deltaBias,
      deltaSoftplus: flag(config, "deltaSoftplus", true),
      discretization: text(config, "discretization", "mamba") as Discretization,
    });
  },
  mamba_block: ({ inputs, params }) => {
    const { x, convState, ssmState } = inputs;
    const { wDt, wOut, aLog, convWeight } = params;
    const [dim, innerDim] = wOut!.shape as [number, number];
    const config = {
      dim,
      innerDim,
      stateSize: aLog!.shape[1]!,
      convSize: convWeight!.shape[1]!,
      dtRank: wDt!.shape[1]!,
      bias: params["bIn"] !== undefined,
    };
    const { out, ...states } = new MambaBlock(config, renamed(MAMBA, params)).outputs(x!, {
      convState,
      ssmState,
    });
    return { out, ...states };
  },
  mamba2_block: ({ config, inputs, params }) => {
    const { x, convState, ssmState } = inputs;
    const [dim, convSize] = [params["wOut"]!.shape[0]!, params["convWeight"]!.shape[1]!];
    const own = configFor(Mamba2Block, { ...config, dim, convSize });
    const block = new Mamba2Block(own, renamed(MAMBA2, params));
    const { out, ...states } = block.outputs(x!, { convState, ssmState });
    return { out, ...states };
  },
  rg_lru: ({ config, inputs, params }) => {
    const { x, state, segmentPos } = inputs;
    const { wInput, bInput, wRec, bRec, aParam } = params;
    const gates = { wInput: wInput!, bInput: bInput!, wRec: wRec!, bRec: bRec!, aParam: aParam! };
    return rgLru(x!, gates, { state, segmentPos, c: number(config, "c", 8) });
  },
  griffin_recurrent_block: ({ inputs, params }) => {
    const { x, convState, state, segmentPos } = inputs;
    const [dim, lruWidth] = params["wOut"]!.shape as [number, number];
    const numBlocks = params["wInput"]!.shape[0]!;
    const config = { dim, lruWidth, numBlocks, convSize: params["convWeight"]!.shape[1]! };
    const { out, ...states } = new GriffinBlock(config, renamed(GRIFFIN, params)).outputs(x!, {
      convState,
      state,
      segmentPos,
    });
    return { out, ...states };
  },
  rwkv4_time_mix: ({ inputs, params }) => {
    const { x, prev, num, den, max } = inputs;
    const [dim, attentionDim] = params["wO"]!.shape as [number, number];
    const layer = new Rwkv4TimeMix({ dim, attentionDim }, renamed(RWKV, params));
    const { out, ...states } = layer.outputs(x!, { prev, num, den, max });
    return { out, ...states };
  },
  rwkv4_channel_mix: ({ inputs, params }) => {
    const [dim, ffnDim] = params["wV"]!.shape as [number, number];
    const { out, prev } = new Rwkv4ChannelMix({ dim, ffnDim }, renamed(RWKV, params)).outputs(inputs["x"]!, {
      prev: inputs["prev"],
    });
    return { out, prev };
  },
};
