import {
  checkConfig,
  ConfigError,
  expectInteger,
  expectNumber,
  expectOneOf,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { rowNorm } from "./row_norm.js";

export interface PartialRMSNormOptions {
  /** Share of the features that the statistic is taken from, in (0, 1]; the paper: 0.0625. */
  readonly p: number;
  /** k = floor(dim p), as the authors' code, or ceil, as the paper; at least 1. Default "floor". */
  readonly rounding?: "floor" | "ceil";
  /** Default 1e-8. */
  readonly eps?: number;
  /** Default "outside". */
  readonly epsPlacement?: "inside" | "outside";
  readonly bias?: Tensor | undefined;
}

/**
 * Partial RMSNorm: all features are divided by the root mean square of the first k.
 *
 * x [..., dim], weight [dim]. Zhang and Sennrich 2019, arXiv:1910.07467, section 4.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function partialRmsNorm(
  x: Tensor,
  weight: Tensor | undefined,
  options: PartialRMSNormOptions,
): Tensor {
  const who = "partialRmsNorm";
  checkConfig(who, options, ["p", "rounding", "eps", "epsPlacement", "bias"]);
  const { p, rounding = "floor", eps = 1e-8, epsPlacement = "outside", bias } = options;
  expectNumber(who, "p", p, 0, 1);
  if (p === 0) throw new ConfigError(who, "p is 0; it must lie in (0, 1]");
  expectOneOf(who, "rounding", rounding, ["floor", "ceil"]);
  expectOneOf(who, "epsPlacement", epsPlacement, ["inside", "outside"]);
  const k = Math.max(1, Math[rounding]((x.shape.at(-1) ?? 0) * p));
  return rowNorm(x, { who, divisor: epsPlacement, eps, k, weight, bias }).out;
}

/** Partial RMSNorm with its weight. */
export class PartialRMSNorm implements Module {
  readonly weight: Tensor;
  readonly options: Omit<PartialRMSNormOptions, "bias">;

  constructor(weight: Tensor, options: Omit<PartialRMSNormOptions, "bias">) {
    this.weight = weight;
    this.options = options;
  }

  /** Weight of ones. */
  static init(gpu: Gpu, config: { dim: number } & Omit<PartialRMSNormOptions, "bias">): PartialRMSNorm {
    checkConfig("PartialRMSNorm", config, ["dim", "p", "rounding", "eps", "epsPlacement"]);
    const { dim, ...options } = config;
    expectInteger("PartialRMSNorm", "dim", dim, 1);
    return new PartialRMSNorm(gpu.keep(gpu.full([dim], 1)), options);
  }

  static fromParameters(
    options: Omit<PartialRMSNormOptions, "bias">,
    parameters: Readonly<Record<string, Tensor>>,
  ): PartialRMSNorm {
    checkConfig("PartialRMSNorm", options, ["p", "rounding", "eps", "epsPlacement"]);
    return new PartialRMSNorm(takeParameter("PartialRMSNorm", parameters, "weight"), options);
  }

  forward(x: Tensor): Tensor {
    return partialRmsNorm(x, this.weight, this.options);
  }

  parameters(): Record<string, Tensor> {
    return { weight: this.weight };
  }
}
