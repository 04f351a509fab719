import { ConfigError, integer, number, schema, type Config } from "@x/kernels";

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

const PLAIN = schema("plainFrequencies", {
  d: integer("Features that turn; even.", { min: 2 }),
  base: number("Base of the powers.", { min: Number.MIN_VALUE }),
});

/** theta_i = base^(-2 i / d) for d that is known to be even. */
export const inverseFrequencies = ({ d, base }: Pick<RopeBase, "d" | "base">): Float64Array =>
  Float64Array.from({ length: d / 2 }, (_, i) => base ** ((-2 * i) / d));

/**
 * RoPE's frequencies without a context extension, theta_i = base^(-2 i / d) for i in 0..d/2-1, in radians per position.
 * Su et al. 2021, arXiv:2104.09864, section 3.2.2.
 *
 * @throws ConfigError
 */
export function plainFrequencies(config: Config<typeof PLAIN>): Float64Array {
  const { d, base } = PLAIN.read(config);
  if (d % 2 !== 0) throw new ConfigError(PLAIN.name, `d is ${d}; it must be even`);
  return inverseFrequencies({ d, base });
}
