import { add, matmul, transpose } from "@x/kernels";
import { ShawRelative } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { settingsOf } from "./packaged.js";

/** Trained vectors of clipped distances, on keys and values: `maxDistance`, `useKey` and `useValue` (true). */
export const shaw: Factory<Encoding> = (spec, { name }) => {
  const settings = settingsOf(ShawRelative, spec, name, ["headDim"]);
  const tables: ShawRelative[] = [];
  return {
    attention: (weights, { headDim }) => {
      const config = settings({ headDim });
      const own = new ShawRelative(config, new ParameterSet(weights).planned(ShawRelative.plan(config)));
      tables.push(own);
      const { relValue } = own.parameters();
      return {
        scores: (q, _keys, { scale }) => ({ modifiers: own.modifiers(transpose(q, [0, 2, 1, 3]), scale) }),
        ...(relValue
          ? {
              values: {
                index: own.index,
                add: (out, sums) => add(out, transpose(matmul(sums, relValue), [0, 2, 1, 3])),
              },
            }
          : {}),
        parameters: () => own.parameters(),
      };
    },
    parameters: () => ({}),
    dispose: () => {
      for (const table of tables) table.dispose();
    },
  };
};
