import { SinusoidalEmbedding, type SinusoidalConfig } from "@x/positional";
import type { Encoding, Factory } from "../contract.js";

/** Sines and cosines added to the embedding: `base`, `layout`, `denominator`, `inputScale`. */
export const sinusoidal: Factory<Encoding> = (spec, { gpu, model }) => {
  const config = Object.fromEntries(Object.entries(spec).filter(([key]) => key !== "type"));
  const embedding = new SinusoidalEmbedding(gpu, {
    ...(config as Partial<SinusoidalConfig>),
    dim: model.dim,
  });
  return {
    input: (x, { positionIds, seqLen }) => embedding.forward(x, positionIds ? { positionIds, seqLen } : {}),
    parameters: () => ({}),
    dispose: () => {
      embedding.dispose();
    },
  };
};
