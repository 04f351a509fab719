import { SinusoidalEmbedding } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";
import { settingsOf } from "./packaged.js";

/** Sines and cosines added to the embedding: `base`, `layout`, `denominator`, `inputScale`. */
export const sinusoidal: Factory<Encoding> = (spec, { name, model }) => {
  const settings = settingsOf(SinusoidalEmbedding, spec, name);
  const embedding = new SinusoidalEmbedding({ ...settings({ dim: model.dim }), dim: model.dim });
  return {
    input: (x, { positionIds, seqLen }) => embedding.forward(x, positionIds ? { positionIds, seqLen } : {}),
    parameters: () => ({}),
    dispose: () => {
      embedding.dispose();
    },
  };
};
