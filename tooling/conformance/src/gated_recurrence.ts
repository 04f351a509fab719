import { MambaBlock, selectiveScan, type Discretization } from "@x/attention";
import { flag, text } from "./config.js";
import type { Runner } from "./runner.js";
import type { Tensor } from "@x/kernels";

/** The given tensors under the names that a component has for them. */
function renamed(
  names: Readonly<Record<string, string>>,
  given: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(given).map(([name, t]) => [names[name] ?? name, t]));
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
};
