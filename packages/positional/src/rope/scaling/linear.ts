import { checkConfig, expectNumber } from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "../frequencies.js";

/** Position Interpolation: the longer context is squeezed into the trained range. */
export interface LinearScaling {
  readonly type: "linear";
  /** New length / trained length, at least 1. */
  readonly factor: number;
}

/** invFreq_i = theta_i / factor. Chen et al. 2023, arXiv:2306.15595. */
export function linearFrequencies(base: RopeBase, scaling: LinearScaling): RopeFrequencies {
  checkConfig("rope linear", scaling, ["type", "factor"]);
  expectNumber("rope linear", "factor", scaling.factor, 1);
  return { invFreq: inverseFrequencies(base).map((theta) => theta / scaling.factor), attentionFactor: 1 };
}
