import type { ComponentClass, Schema, Tensor } from "@x/kernels";
import { BatchNorm, GemmaRMSNorm, LayerNorm, PartialRMSNorm, RMSNorm, ScaleNorm } from "@x/norm";
import { configOf } from "../config/index.js";
import type { ForwardContext, NormFactory } from "./contract.js";
import { ParameterSet } from "./parameters.js";

/** A norm of @x/norm; what differs from norm to norm is what its forward pass is told. */
interface PackagedNorm {
  forward(x: Tensor, options: { readonly training: boolean }): Tensor;
  parameters(): Record<string, Tensor>;
  buffers(): Record<string, Tensor>;
}

/** A norm whose keys, ranges, defaults and parameters are those that the package declares. */
function packaged<Given>(
  norm: ComponentClass<PackagedNorm, Given, unknown> & { readonly schema: Schema },
  defaults: Readonly<Record<string, unknown>> = {},
): NormFactory {
  return (spec, weights, dim) => {
    const config = configOf(`${weights.name}: norm`, norm.schema, { ...defaults, ...spec }, { dim }) as Given;
    const made = new norm(config, new ParameterSet(weights).planned(norm.plan(config)));
    return {
      forward: (x: Tensor, { training }: ForwardContext) => made.forward(x, { training }),
      parameters: () => made.parameters(),
      buffers: () => made.buffers(),
    };
  };
}

/**
 * Norms by type. In training `batch` takes its statistics from the whole batch, so that a token sees later ones; a
 * trained model is causal.
 */
export const NORMS: Readonly<Record<string, NormFactory>> = {
  rms: packaged(RMSNorm),
  gemma: packaged(GemmaRMSNorm),
  layer: packaged(LayerNorm),
  prms: packaged(PartialRMSNorm, { p: 0.0625 }),
  scale: packaged(ScaleNorm),
  batch: packaged(BatchNorm),
};
