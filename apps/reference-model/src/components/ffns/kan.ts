import { KanFeedForward, type KanFeedForwardConfig } from "@x/ffn";
import { add } from "@x/kernels";
import { configOf } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { countParameters, ParameterSet } from "../parameters.js";

/**
 * Two KAN layers, with the keys of `KanFeedForward`. Batch norm is left out: it would let a token see later ones.
 */
export const kanBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { model, name, given = {} } = weights;
  const { schema } = KanFeedForward;
  const left = ["batchNorm", "normEps"];
  const config = configOf(`${name}: kan`, schema, spec, { dim: model.dim }, left) as KanFeedForwardConfig;
  const parameters = new ParameterSet(weights).planned(KanFeedForward.plan(config));
  // Knots that were moved are in the checkpoint; the uniform ones are not.
  const grids = Object.entries(given).filter(([key]) => /^layers\.[01]\.grid$/.test(key));
  const block = new KanFeedForward(config, { ...parameters, ...Object.fromEntries(grids) });
  return {
    forward: (x, _context, residual) => {
      const out = block.forward(x);
      return residual ? add(residual, out) : out;
    },
    activeParameters: countParameters(parameters),
    parameters: () => block.parameters(),
    buffers: () => block.buffers(),
  };
};
