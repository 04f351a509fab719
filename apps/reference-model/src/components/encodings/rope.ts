import { RotaryEmbedding } from "@x/positional";
import type { AttentionEncoding, Encoding, Factory } from "../contract.js";
import { settingsOf } from "./packaged.js";

/** RoPE with any scaling; `headDim` follows the mixer. */
export const rope: Factory<Encoding> = (spec, { name }) => {
  const settings = settingsOf(RotaryEmbedding, spec, name);
  // Layers of one head size share their tables.
  const tables = new Map<number, RotaryEmbedding>();
  return {
    attention: (_weights, { headDim }): AttentionEncoding => {
      const table = tables.get(headDim) ?? new RotaryEmbedding(settings({ headDim }));
      tables.set(headDim, table);
      return {
        rotate: (q, k, { seqLen, positionIds, maxPositions }) => {
          const [turned, key] = table.applyQK(q, k, {
            layout: "bshd",
            seqLen,
            ...(positionIds ? { positionIds, maxPositions } : {}),
          });
          return { q: turned, k: key };
        },
        parameters: () => ({}),
      };
    },
    changes: (from, to) => [...tables.values()].some((table) => table.changes(from, to)),
    parameters: () => ({}),
    dispose: () => {
      for (const table of tables.values()) table.dispose();
    },
  };
};
