import { Rwkv4ChannelMix, type SequenceState } from "@x/attention/sequence";
import { configOf } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { countParameters, ParameterSet } from "../parameters.js";

/** RWKV-4's channel mix: a feed-forward block with a gate, whose inputs are mixed with those of the token before. */
export const channelMix: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, name } = weights;
  const config = configOf(`${name}: ${spec.type}`, Rwkv4ChannelMix.schema, spec, { dim: model.dim }) as {
    readonly dim: number;
  };
  const made = new Rwkv4ChannelMix(config, new ParameterSet(weights).planned(Rwkv4ChannelMix.plan(config)));
  return {
    forward: (x, _, residual, state) =>
      made.forward(x, { residual, state: state as SequenceState | undefined }),
    createState: ({ batch }) => made.createState({ batch }),
    activeParameters: countParameters(made.parameters()),
    parameters: () => made.parameters(),
  };
};
