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

/** RMSNorm with its weight and, if there is one, its bias. */
export class RMSNorm implements Module {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;
  readonly eps: number;
  readonly epsPlacement: "inside" | "outside";

  constructor(
    weight: Tensor,
    {
      eps = 1e-6,
      epsPlacement = "inside",
      bias,
    }: { eps?: number; epsPlacement?: "inside" | "outside"; bias?: Tensor | undefined } = {},
  ) {
    this.weight = weight;
    this.bias = bias;
    this.eps = eps;
    this.epsPlacement = epsPlacement;
  }

  /** Weight of ones; with `bias`, a bias of zeros. */
  static init(
    gpu: Gpu,
    config: { dim: number; eps?: number; epsPlacement?: "inside" | "outside"; bias?: boolean },
  ): RMSNorm {
    checkConfig("RMSNorm", config, ["dim", "eps", "epsPlacement", "bias"]);
    const { dim, bias = false, ...options } = config;
    expectInteger("RMSNorm", "dim", dim, 1);
    return new RMSNorm(gpu.keep(gpu.full([dim], 1)), {
      ...options,
      bias: bias ? gpu.keep(gpu.zeros([dim])) : undefined,
    });
  }

  /** From `weight` and, if it is there, `bias`. */
  static fromParameters(
    config: { eps?: number; epsPlacement?: "inside" | "outside" },
    parameters: Readonly<Record<string, Tensor>>,
  ): RMSNorm {
    checkConfig("RMSNorm", config, ["eps", "epsPlacement"]);
    return new RMSNorm(takeParameter("RMSNorm", parameters, "weight"), {
      ...config,
      bias: parameters["bias"],
    });
  }

  forward(x: Tensor): Tensor {
    const { eps, epsPlacement, bias } = this;
    return rmsNorm(x, this.weight, { eps, epsPlacement, bias });
  }

  parameters(): Record<string, Tensor> {
    return { weight: this.weight, ...(this.bias ? { bias: this.bias } : {}) };
  }
}
