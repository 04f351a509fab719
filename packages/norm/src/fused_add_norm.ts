import { ConfigError, number, oneOf, schema, tensor, type Config, type Tensor } from "@x/kernels";
import { rowNorm, type RowNormResult } from "./row_norm/row_norm.js";

const OPTIONS = schema("fusedAddNorm", {
  kind: oneOf("The norm.", ["rms", "layer", "gemma"]),
  eps: number("As in that norm.", { min: 0, defaultDoc: '1e-5 for "layer", 1e-6 otherwise' }),
  residualScale: number("Factor of the residual: DeepNorm's alpha.", { default: 1 }),
  weight: tensor("Factor, [dim]; for gemma the factor - 1.", { optional: true }),
  bias: tensor('Shift, [dim]; kind "layer" only.', { optional: true }),
});
export type FusedAddNormOptions = Config<typeof OPTIONS>;
/** The norms that placements and fused forms can use. */
export type NormKind = FusedAddNormOptions["kind"];

/**
 * One pass over the residual stream: residual' = residualScale residual + x; out = norm(residual').
 *
 * x (the branch) and residual [..., dim], of one dtype. With f16 the norm sees the sum as it is stored.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function fusedAddNorm(x: Tensor, residual: Tensor, options: FusedAddNormOptions): RowNormResult {
  const who = OPTIONS.name;
  const { kind, eps = kind === "layer" ? 1e-5 : 1e-6, residualScale, weight, bias } = OPTIONS.read(options);
  if (bias && kind !== "layer") throw new ConfigError(who, `bias is given; only kind "layer" has one`);
  return rowNorm(x, {
    who,
    center: kind === "layer",
    divisor: "inside",
    eps,
    offset: kind === "gemma" ? 1 : 0,
    weight,
    bias,
    residual,
    residualScale,
  });
}
