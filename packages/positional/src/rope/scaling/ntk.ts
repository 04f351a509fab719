import { checkConfig, expectNumber } from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "../frequencies.js";

/** NTK-aware: a larger base divides the lowest frequency by the factor and keeps the highest. */
export interface NtkScaling {
  readonly type: "ntk";
  readonly factor: number;
}

/** base factor^(d / (d - 2)); a single pair has no lower frequency to stretch. */
export function stretchBase({ d, base }: Pick<RopeBase, "d" | "base">, factor: number): number {
  return d === 2 ? base : base * factor ** (d / (d - 2));
}

/** invFreq_i = base'^(-2 i / d). Peng et al. 2023, arXiv:2309.00071, section 3.1. */
export function ntkFrequencies({ d, base }: RopeBase, scaling: NtkScaling): RopeFrequencies {
  checkConfig("rope ntk", scaling, ["type", "factor"]);
  expectNumber("rope ntk", "factor", scaling.factor, 1);
  return {
    invFreq: inverseFrequencies({ d, base: stretchBase({ d, base }, scaling.factor) }),
    attentionFactor: 1,
  };
}
