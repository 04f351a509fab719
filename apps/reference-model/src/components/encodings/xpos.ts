import { Xpos } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { settingsOf } from "./packaged.js";

/**
 * RoPE with scores that decay with the distance: `rotaryDim`, `base`, `layout`, `scaleBase`, `gamma`. The center of
 * the powers is half of the model's length, so that keys can be cached.
 */
export const xpos: Factory<Encoding> = (spec, { name, model }) => {
  const settings = settingsOf(Xpos, spec, name);
  const tables = new Map<number, Xpos>();
  const center = Math.ceil(model.maxLength / 2);
  return {
    attention: (_weights, { headDim }) => {
      const own = tables.get(headDim) ?? new Xpos({ ...settings({ headDim }), headDim });
      tables.set(headDim, own);
      return {
        rotate: (q, k, { positionIds, maxPositions }) => {
          const options = {
            layout: "bshd",
            center,
            ...(positionIds ? { positionIds, seqLen: maxPositions } : {}),
          } as const;
          return { q: own.apply(q, "query", options), k: own.apply(k, "key", options) };
        },
        parameters: () => ({}),
      };
    },
    parameters: () => ({}),
    dispose: () => {
      for (const table of tables.values()) table.dispose();
    },
  };
};
