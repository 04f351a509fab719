import { checkConfig, ConfigError, expectNumber } from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "../frequencies.js";

/** The general form behind the methods: a divisor for every feature pair. */
export interface CustomScaling {
  readonly type: "custom";
  readonly pairFactors: readonly number[];
  /** Factor of cos and sin; default 1. */
  readonly attentionFactor?: number;
}

/** invFreq_i = theta_i / pairFactors_i. */
export function customFrequencies(base: RopeBase, scaling: CustomScaling): RopeFrequencies {
  const who = "rope custom";
  checkConfig(who, scaling, ["type", "pairFactors", "attentionFactor"]);
  const { pairFactors, attentionFactor = 1 } = scaling;
  if (!Array.isArray(pairFactors) || pairFactors.length !== base.d / 2) {
    throw new ConfigError(
      who,
      `pairFactors has ${Array.isArray(pairFactors) ? pairFactors.length : "no"} entries; it must have ${base.d / 2}`,
    );
  }
  for (const x of pairFactors as readonly unknown[]) expectNumber(who, "pairFactors", x, Number.MIN_VALUE);
  expectNumber(who, "attentionFactor", attentionFactor);
  return { invFreq: inverseFrequencies(base).map((theta, i) => theta / pairFactors[i]!), attentionFactor };
}
