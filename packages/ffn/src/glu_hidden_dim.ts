import { checkConfig, expectInteger, expectNumber } from "@x/kernels";

export interface GluHiddenDimOptions {
  /** Width of the plain block in multiples of dim; default 4. */
  readonly expansion?: number;
  /** Round up to a multiple; default 1. */
  readonly multipleOf?: number;
  /** Llama's ffn_dim_multiplier. */
  readonly multiplier?: number | undefined;
}

/**
 * The two-thirds rule: three matrices of width 2 F / 3 cost what two of width F cost.
 * h = int(2 expansion dim / 3); h = int(multiplier h); rounded up to a multiple of multipleOf.
 *
 * Shazeer 2020, arXiv:2002.05202; the rounding is that of Llama.
 */
export function gluHiddenDim(dim: number, options: GluHiddenDimOptions = {}): number {
  const who = "gluHiddenDim";
  checkConfig(who, options, ["expansion", "multipleOf", "multiplier"]);
  const { expansion = 4, multipleOf = 1, multiplier } = options;
  expectInteger(who, "dim", dim, 1);
  expectNumber(who, "expansion", expansion, 0);
  expectInteger(who, "multipleOf", multipleOf, 1);
  let hidden = Math.trunc((2 * (expansion * dim)) / 3);
  if (multiplier !== undefined) {
    expectNumber(who, "multiplier", multiplier, 0);
    hidden = Math.trunc(multiplier * hidden);
  }
  return multipleOf * Math.ceil(hidden / multipleOf);
}
