import {
  checkConfig,
  expectInteger,
  expectOneOf,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { rowNorm } from "./row_norm.js";

export interface RMSNormOptions {
  /** Default 1e-6. */
  readonly eps?: number;
  /** x / sqrt(mean(x^2) + eps), as everyone trains, or x / (sqrt(mean(x^2)) + eps), as in the authors' code. */
  readonly epsPlacement?: "inside" | "outside";
  readonly bias?: Tensor | undefined;
}

/**
 * RMSNorm: out = x / sqrt(mean(x^2) + eps) * weight (+ bias) over the last axis.
 *
 * x [..., dim], weight and bias [dim]; f32 or f16, statistics in f32.
 * Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function rmsNorm(x: Tensor, weight?: Tensor, options: RMSNormOptions = {}): Tensor {
  checkConfig("rmsNorm", options, ["eps", "epsPlacement", "bias"]);
  const { eps = 1e-6, epsPlacement = "inside", bias } = options;
  expectOneOf("rmsNorm", "epsPlacement", epsPlacement, ["inside", "outside"]);
  return rowNorm(x, { who: "rmsNorm", divisor: epsPlacement, eps, weight, bias }).out;
}

/** RMSNorm with its weight. */
export class RMSNorm implements Module {
  readonly weight: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, { eps = 1e-6 }: { eps?: number } = {}) {
    this.weight = weight;
    this.eps = eps;
  }

  /** Weight of ones. */
  static init(gpu: Gpu, config: { dim: number; eps?: number }): RMSNorm {
    checkConfig("RMSNorm", config, ["dim", "eps"]);
    expectInteger("RMSNorm", "dim", config.dim, 1);
    return new RMSNorm(gpu.keep(gpu.full([config.dim], 1)), config);
  }

  static fromParameters(config: { eps?: number }, parameters: Readonly<Record<string, Tensor>>): RMSNorm {
    return new RMSNorm(takeParameter("RMSNorm", parameters, "weight"), config);
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, { eps: this.eps });
  }

  parameters(): Record<string, Tensor> {
    return { weight: this.weight };
  }
}
