import { add, matmul, transpose } from "@x/kernels";
import { ShawRelative } from "@x/positional";
import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/** Trained vectors of clipped distances, on keys and values: `maxDistance`, `useKey` and `useValue` (true). */
export const shaw: Factory<Encoding> = (spec, { name }) => {
  const f = new Fields(`${name}: position`, spec, ["type", "maxDistance", "useKey", "useValue"]);
  const maxDistance = f.integer("maxDistance", undefined, 0);
  const [useKey, useValue] = [f.flag("useKey", true), f.flag("useValue", true)];
  const tables: ShawRelative[] = [];
  return {
    attention: (weights, { headDim }) => {
      const set = new ParameterSet(weights);
      const table = (at: string) => set.normal(at, [2 * maxDistance + 1, headDim]);
      const own = new ShawRelative(
        useKey ? table("relKey") : undefined,
        useValue ? table("relValue") : undefined,
        maxDistance,
      );
      tables.push(own);
      const { relValue } = own;
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
        parameters: () => set.all(),
      };
    },
    parameters: () => ({}),
    dispose: () => {
      for (const table of tables) table.dispose();
    },
  };
};
