import { LearnedAbsolute } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { settingsOf } from "./packaged.js";

/** A trained vector for each position, added to the embedding: `maxPositions` (maxLength). */
export const learned: Factory<Encoding> = (spec, weights) => {
  const { name, model } = weights;
  const config = settingsOf(LearnedAbsolute, spec, name, ["dim"])({
    dim: model.dim,
    maxPositions: model.maxLength,
  });
  const embedding = new LearnedAbsolute(
    config,
    new ParameterSet(weights).planned(LearnedAbsolute.plan(config)),
  );
  return {
    input: (x, { positionIds, seqLen }) => embedding.forward(x, positionIds ? { positionIds, seqLen } : {}),
    maxPositions: config.maxPositions,
    parameters: () => embedding.parameters(),
  };
};
