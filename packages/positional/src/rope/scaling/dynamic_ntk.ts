import { checkConfig, expectInteger, expectNumber } from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "../frequencies.js";
import { stretchBase } from "./ntk.js";

/** Dynamic NTK: the base grows with the sequence, so short ones are as trained. */
export interface DynamicNtkScaling {
  readonly type: "dynamicNtk";
  readonly factor: number;
  readonly originalMaxPositionEmbeddings: number;
}

/** The NTK base for the factor s max(n, L) / L - (s - 1). Keys in a cache go stale as it grows. arXiv:2309.00071, section 3.3. */
export function dynamicNtkFrequencies(
  { d, base, seqLen }: RopeBase,
  scaling: DynamicNtkScaling,
): RopeFrequencies {
  const who = "rope dynamicNtk";
  checkConfig(who, scaling, ["type", "factor", "originalMaxPositionEmbeddings"]);
  const { factor, originalMaxPositionEmbeddings: L } = scaling;
  expectNumber(who, "factor", factor, 1);
  expectInteger(who, "originalMaxPositionEmbeddings", L, 1);
  const stretch = (factor * Math.max(seqLen, L)) / L - (factor - 1);
  return { invFreq: inverseFrequencies({ d, base: stretchBase({ d, base }, stretch) }), attentionFactor: 1 };
}
