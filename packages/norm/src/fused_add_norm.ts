import { checkConfig, ConfigError, expectNumber, expectOneOf, type Tensor } from "@x/kernels";
import { rowNorm, type RowNormResult } from "./row_norm.js";

/** The norms that placements and fused forms can use. */
export type NormKind = "rms" | "layer" | "gemma";

export interface FusedAddNormOptions {
  readonly kind: NormKind;
  /** Default 1e-5 for "layer", else 1e-6. */
  readonly eps?: number;
  /** Factor of the residual: DeepNorm's alpha. Default 1. */
  readonly residualScale?: number;
  readonly weight?: Tensor | undefined;
  /** "layer" only. */
  readonly bias?: Tensor | undefined;
}

/**
 * One pass over the residual stream: residual' = residualScale residual + x; out = norm(residual').
 *
 * x (the branch) and residual [..., dim], of one dtype. With f16 the norm sees the sum as it is stored.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function fusedAddNorm(x: Tensor, residual: Tensor, options: FusedAddNormOptions): RowNormResult {
  const who = "fusedAddNorm";
  checkConfig(who, options, ["kind", "eps", "residualScale", "weight", "bias"]);
  const { kind, residualScale = 1, weight, bias } = options;
  expectOneOf(who, "kind", kind, ["rms", "layer", "gemma"]);
  expectNumber(who, "residualScale", residualScale);
  if (bias && kind !== "layer") throw new ConfigError(who, `bias is given; only kind "layer" has one`);
  return rowNorm(x, {
    who,
    center: kind === "layer",
    divisor: "inside",
    eps: options.eps ?? (kind === "layer" ? 1e-5 : 1e-6),
    offset: kind === "gemma" ? 1 : 0,
    weight,
    bias,
    residual,
    residualScale,
  });
}
