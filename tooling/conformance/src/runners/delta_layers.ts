import { GatedDeltaNet, type GatedDeltaNetConfig } from "@x/attention";
import { concat, type Tensor } from "@x/kernels";
import { chunksOf, join, part, pieces } from "../golden/chunks.js";
import { without } from "../golden/config.js";
import { withChunks, type Runner, type RunnerContext } from "../runner.js";

/** A layer's parameters by the packages' names; the golden ones are a projection each. */
const NAMES: Readonly<Record<string, string>> = {
  wZ: "in_proj_z.weight",
  wB: "in_proj_b.weight",
  wA: "in_proj_a.weight",
  convBias: "conv1d.bias",
  dtBias: "dt_bias",
  aLog: "A_log",
  normWeight: "norm.weight",
  wO: "out_proj.weight",
};

interface Layer {
  outputs(x: Tensor, states: Readonly<Record<string, Tensor | undefined>>): { readonly out: Tensor };
}

/** A layer over named states, whole and in the case's pieces with its states carried. */
function layerRunner(make: (context: RunnerContext) => Layer): Runner {
  return withChunks(
    (context) => {
      const { x, ...states } = context.inputs;
      return { ...make(context).outputs(x!, states) };
    },
    (context) => {
      const layer = make(context);
      const { x, ...given } = context.inputs;
      const outs: Tensor[] = [];
      let states: Record<string, Tensor> = given;
      for (const piece of pieces(x!.shape[1]!, chunksOf(context.config)!)) {
        const { out, ...next } = layer.outputs(part(x!, 1, piece), states);
        outs.push(out);
        states = next;
      }
      return { out: join(outs, 1), ...states };
    },
  );
}

/** Runners of layers around a delta rule. */
export const deltaLayers: Readonly<Record<string, Runner>> = {
  gated_delta_net: layerRunner(({ config, inputs, params }) => {
    const { wQ, wK, wV, convWeight, ...others } = params;
    const [channels, convSize] = convWeight!.shape as [number, number];
    const own = {
      ...without(config, "chunks"),
      ...{ dim: inputs["x"]!.shape[2]!, convSize, convBias: params["convBias"] !== undefined },
      ...(params["wZ"] ? {} : { gateFn: "none" }),
    };
    return new GatedDeltaNet(own as unknown as GatedDeltaNetConfig, {
      "in_proj_qkv.weight": concat([wQ!, wK!, wV!]),
      "conv1d.weight": convWeight!.reshape([channels, 1, convSize]),
      ...Object.fromEntries(Object.entries(others).map(([name, t]) => [NAMES[name]!, t])),
    });
  }),
};
