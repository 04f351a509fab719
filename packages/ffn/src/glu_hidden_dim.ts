import { expectInteger, integer, number, schema, type Config } from "@x/kernels";

const OPTIONS = schema("gluHiddenDim", {
  expansion: number("Width of the plain block in multiples of dim.", { min: 0, default: 4 }),
  multipleOf: integer("The result is rounded up to a multiple.", { min: 1, default: 1 }),
  multiplier: number("Llama's ffn_dim_multiplier.", { min: 0, optional: true }),
});
export type GluHiddenDimOptions = Config<typeof OPTIONS>;

/**
 * The two-thirds rule: three matrices of width 2 F / 3 cost what two of width F cost.
 * h = int(2 expansion dim / 3); h = int(multiplier h); rounded up to a multiple of multipleOf.
 *
 * Shazeer 2020, arXiv:2002.05202; the rounding is that of Llama.
 *
 * @throws ConfigError
 */
export function gluHiddenDim(dim: number, options: GluHiddenDimOptions = {}): number {
  const { expansion, multipleOf, multiplier } = OPTIONS.read(options);
  expectInteger(OPTIONS.name, "dim", dim, 1);
  const plain = Math.trunc((2 * (expansion * dim)) / 3);
  const hidden = multiplier === undefined ? plain : Math.trunc(multiplier * plain);
  return multipleOf * Math.ceil(hidden / multipleOf);
}
