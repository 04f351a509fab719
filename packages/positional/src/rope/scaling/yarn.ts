import { checkConfig, expectNumber } from "@x/kernels";
import type { RopeBase, RopeFrequencies } from "../frequencies.js";
import { blend, checkRamp, keepShare } from "./ntk_by_parts.js";

/** YaRN: NTK-by-parts and a temperature on the attention scores. */
export interface YarnScaling {
  readonly type: "yarn";
  readonly factor: number;
  readonly originalMaxPositionEmbeddings: number;
  readonly betaFast?: number;
  readonly betaSlow?: number;
  /** Default "index", as in the public code. */
  readonly rampSpace?: "rotations" | "index";
  readonly truncate?: boolean;
  /** Factor of cos and sin; by default it follows from the other keys. */
  readonly attentionFactor?: number;
  readonly mscale?: number;
  readonly mscaleAllDim?: number;
}

/** m(s, c) = 0.1 c ln(s) + 1 for s above 1, and 1 otherwise. @throws ConfigError */
export function yarnMscale(factor: number, c: number): number {
  expectNumber("yarnMscale", "factor", factor);
  expectNumber("yarnMscale", "c", c);
  return factor <= 1 ? 1 : 0.1 * c * Math.log(factor) + 1;
}

/** arXiv:2309.00071, section 3.4; mscale as in the DeepSeek models. */
export function yarnFrequencies(base: RopeBase, scaling: YarnScaling): RopeFrequencies {
  const who = "rope yarn";
  checkConfig(who, scaling, [
    "type",
    "factor",
    "originalMaxPositionEmbeddings",
    "betaFast",
    "betaSlow",
    "rampSpace",
    "truncate",
    "attentionFactor",
    "mscale",
    "mscaleAllDim",
  ]);
  const {
    factor,
    originalMaxPositionEmbeddings: L,
    betaFast = 32,
    betaSlow = 1,
    rampSpace = "index",
    truncate = true,
    mscale,
    mscaleAllDim,
  } = scaling;
  expectNumber(who, "factor", factor, Number.MIN_VALUE);
  const ramp = { L, betaFast, betaSlow, space: rampSpace, truncate };
  checkRamp(who, ramp);
  for (const [name, value] of Object.entries({
    mscale,
    mscaleAllDim,
    attentionFactor: scaling.attentionFactor,
  }))
    if (value !== undefined) expectNumber(who, name, value);
  const both = mscale !== undefined && mscaleAllDim !== undefined && mscale !== 0 && mscaleAllDim !== 0;
  const attentionFactor =
    scaling.attentionFactor ??
    (both ? yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim) : yarnMscale(factor, 1));
  return {
    invFreq: blend(base, keepShare(base, ramp), factor),
    attentionFactor,
  };
}
