import type { Factory, FeedForwardBlock } from "../contract.js";

/** A layer that is a mixer alone (Mamba): nothing is added to the stream. */
export const noBlock: Factory<FeedForwardBlock> = () => ({
  forward: (x, _, residual) => residual ?? x.gpu.zeros(x.shape, x.dtype),
  activeParameters: 0,
  parameters: () => ({}),
});
