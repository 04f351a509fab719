import { alibi as modifierOf } from "@x/positional";
import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";

/** A fixed penalty on the distance, with a slope for each head: `maxBias` (8), the exponent of the smallest slope. */
export const alibi: Factory<Encoding> = (spec, { name, gpu }) => {
  const f = new Fields(`${name}: position`, spec, ["type", "maxBias"]);
  const maxBias = f.number("maxBias", 8);
  // Layers with as many heads share their slopes.
  const slopes = new Map<number, ReturnType<typeof modifierOf>>();
  return {
    attention: (_weights, { numHeads }) => {
      const modifier = slopes.get(numHeads) ?? modifierOf(gpu, numHeads, { maxBias });
      slopes.set(numHeads, modifier);
      return { scores: () => ({ modifiers: [modifier] }), parameters: () => ({}) };
    },
    parameters: () => ({}),
    dispose: () => {
      for (const modifier of slopes.values()) modifier.slopes.dispose();
    },
  };
};
