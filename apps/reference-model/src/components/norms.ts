import { BatchNorm, layerNorm, partialRmsNorm, rmsNorm, gemmaRmsNorm, scaleNorm } from "@x/norm";
import { Fields } from "../config/index.js";
import type { Norm, NormFactory } from "./contract.js";
import { ParameterSet } from "./parameters.js";

const rms: NormFactory = (spec, weights, dim): Norm => {
  const f = new Fields(`${weights.name}: norm`, spec, ["type", "eps", "epsPlacement"]);
  const eps = f.number("eps", 1e-6);
  const epsPlacement = f.oneOf("epsPlacement", ["inside", "outside"], "inside");
  const set = new ParameterSet(weights);
  const weight = set.constant("weight", [dim], 1);
  return { forward: (x) => rmsNorm(x, { weight, eps, epsPlacement }), parameters: () => set.all() };
};

/** Factor 1 + weight (Gemma). */
const gemma: NormFactory = (spec, weights, dim): Norm => {
  const eps = new Fields(`${weights.name}: norm`, spec, ["type", "eps"]).number("eps", 1e-6);
  const set = new ParameterSet(weights);
  const weight = set.constant("weight", [dim], 0);
  return { forward: (x) => gemmaRmsNorm(x, { weight, eps }), parameters: () => set.all() };
};

const layer: NormFactory = (spec, weights, dim): Norm => {
  const f = new Fields(`${weights.name}: norm`, spec, ["type", "eps", "bias"]);
  const eps = f.number("eps", 1e-5);
  const set = new ParameterSet(weights);
  const weight = set.constant("weight", [dim], 1);
  const bias = f.flag("bias", true) ? set.constant("bias", [dim], 0) : undefined;
  return { forward: (x) => layerNorm(x, { weight, eps, bias }), parameters: () => set.all() };
};

/** The root mean square of the first `p` of the features: `p` (0.0625), `rounding`, `eps`, `epsPlacement`. */
const partial: NormFactory = (spec, weights, dim): Norm => {
  const f = new Fields(`${weights.name}: norm`, spec, ["type", "p", "rounding", "eps", "epsPlacement"]);
  const options = {
    p: f.number("p", 0.0625),
    rounding: f.oneOf("rounding", ["floor", "ceil"], "floor"),
    eps: f.number("eps", 1e-8),
    epsPlacement: f.oneOf("epsPlacement", ["inside", "outside"], "outside"),
  } as const;
  const set = new ParameterSet(weights);
  const weight = set.constant("weight", [dim], 1);
  return { forward: (x) => partialRmsNorm(x, { weight, ...options }), parameters: () => set.all() };
};

/** One factor for a row of length 1. */
const scale: NormFactory = (spec, weights, dim): Norm => {
  const eps = new Fields(`${weights.name}: norm`, spec, ["type", "eps"]).number("eps", 1e-5);
  const set = new ParameterSet(weights);
  const g = set.constant("g", [1], Math.sqrt(dim));
  return { forward: (x) => scaleNorm(x, { g, eps }), parameters: () => set.all() };
};

/**
 * Statistics of each feature over the batch in training, running ones otherwise: `eps`, `momentum` (0.1). In training
 * a token sees later ones through them; a trained model is causal.
 */
const batch: NormFactory = (spec, weights, dim): Norm => {
  const f = new Fields(`${weights.name}: norm`, spec, ["type", "eps", "momentum"]);
  const config = { dim, eps: f.number("eps", 1e-5), momentum: f.number("momentum", 0.1) };
  const [set, running] = [new ParameterSet(weights), new ParameterSet(weights)];
  set.constant("weight", [dim], 1);
  set.constant("bias", [dim], 0);
  running.constant("running_mean", [dim], 0);
  running.constant("running_var", [dim], 1);
  const norm = new BatchNorm(config, { ...set.all(), ...running.all() });
  return {
    forward: (x, { training }) => norm.forward(x, { training }),
    parameters: () => norm.parameters(),
    buffers: () => norm.buffers(),
  };
};

/** Norms by type. */
export const NORMS: Readonly<Record<string, NormFactory>> = {
  rms,
  gemma,
  layer,
  prms: partial,
  scale,
  batch,
};
