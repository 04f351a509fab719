/** What a scaling method works from. */
export interface RopeBase {
  /** rotaryDim. */
  readonly d: number;
  readonly base: number;
  /** Length of the whole sequence, cache included. */
  readonly seqLen: number;
}

export interface RopeFrequencies {
  /** Radians per position of each feature pair. */
  readonly invFreq: Float64Array;
  /** Factor of cos and sin. */
  readonly attentionFactor: number;
}

/** theta_i = base^(-2 i / d). */
export function plainFrequencies({ d, base }: Pick<RopeBase, "d" | "base">): Float64Array {
  return Float64Array.from({ length: d / 2 }, (_, i) => base ** ((-2 * i) / d));
}
