import { layerNorm, rmsNorm, rmsNormGemma } from "@x/norm";
import { Fields } from "../config/index.js";
import type { Norm, NormFactory } from "./contract.js";
import { ParameterSet } from "./parameters.js";

const rms: NormFactory = (spec, weights, dim): Norm => {
  const eps = new Fields(`${weights.name}: norm`, spec, ["type", "eps"]).number("eps", 1e-6);
  const set = new ParameterSet(weights);
  const weight = set.constant("weight", [dim], 1);
  return { forward: (x) => rmsNorm(x, weight, { eps }), parameters: () => set.all() };
};

/** Factor 1 + weight (Gemma). */
const gemma: NormFactory = (spec, weights, dim): Norm => {
  const eps = new Fields(`${weights.name}: norm`, spec, ["type", "eps"]).number("eps", 1e-6);
  const set = new ParameterSet(weights);
  const weight = set.constant("weight", [dim], 0);
  return { forward: (x) => rmsNormGemma(x, weight, { eps }), parameters: () => set.all() };
};

const layer: NormFactory = (spec, weights, dim): Norm => {
  const f = new Fields(`${weights.name}: norm`, spec, ["type", "eps", "bias"]);
  const eps = f.number("eps", 1e-5);
  const set = new ParameterSet(weights);
  const weight = set.constant("weight", [dim], 1);
  const bias = f.flag("bias", true) ? set.constant("bias", [dim], 0) : undefined;
  return { forward: (x) => layerNorm(x, weight, { eps, bias }), parameters: () => set.all() };
};

/** Norms by type. */
export const NORMS: Readonly<Record<string, NormFactory>> = { rms, gemma, layer };
