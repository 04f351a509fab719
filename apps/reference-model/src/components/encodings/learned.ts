import { LearnedAbsolute } from "@x/positional";
import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/** A trained vector for each position, added to the embedding: `maxPositions` (maxLength). */
export const learned: Factory<Encoding> = (spec, weights) => {
  const f = new Fields(`${weights.name}: position`, spec, ["type", "maxPositions"]);
  const rows = f.integer("maxPositions", weights.model.maxLength);
  const set = new ParameterSet(weights);
  const embedding = new LearnedAbsolute(set.normal("weight", [rows, weights.model.dim]));
  return {
    input: (x, { positionIds, seqLen }) => embedding.forward(x, positionIds ? { positionIds, seqLen } : {}),
    maxPositions: rows,
    parameters: () => set.all(),
  };
};
