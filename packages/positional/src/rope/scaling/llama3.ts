import { checkConfig, ConfigError, expectInteger, expectNumber } from "@x/kernels";
import type { RopeBase, RopeFrequencies } from "../frequencies.js";
import { blend, keepShare } from "./ntk_by_parts.js";

/** Llama 3.1: NTK-by-parts in turns, with bounds named by wavelength. */
export interface Llama3Scaling {
  readonly type: "llama3";
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly originalMaxPositionEmbeddings: number;
}

/** Wavelengths below L / high stay, above L / low are divided by the factor. arXiv:2407.21783. */
export function llama3Frequencies(base: RopeBase, scaling: Llama3Scaling): RopeFrequencies {
  const who = "rope llama3";
  checkConfig(who, scaling, [
    "type",
    "factor",
    "lowFreqFactor",
    "highFreqFactor",
    "originalMaxPositionEmbeddings",
  ]);
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: L } = scaling;
  expectNumber(who, "factor", factor, 1);
  expectInteger(who, "originalMaxPositionEmbeddings", L, 1);
  expectNumber(who, "lowFreqFactor", lowFreqFactor, Number.MIN_VALUE);
  expectNumber(who, "highFreqFactor", highFreqFactor, lowFreqFactor);
  if (highFreqFactor === lowFreqFactor)
    throw new ConfigError(who, `highFreqFactor is ${highFreqFactor}; it must be above lowFreqFactor`);
  const ramp = {
    L,
    betaFast: highFreqFactor,
    betaSlow: lowFreqFactor,
    space: "rotations",
    truncate: true,
  } as const;
  return { invFreq: blend(base, keepShare(base, ramp), factor), attentionFactor: 1 };
}
