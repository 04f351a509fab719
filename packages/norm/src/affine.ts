import { ones, zeros, type ParameterPlan } from "@x/kernels";

/** A factor of ones for each feature, and with `bias` a shift of zeros. */
export const affinePlan = (dim: number, bias: boolean): ParameterPlan => ({
  weight: ones(dim),
  ...(bias ? { bias: zeros(dim) } : {}),
});
