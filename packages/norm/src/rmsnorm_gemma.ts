import { checkConfig, expectInteger, takeParameter, type Gpu, type Module, type Tensor } from "@x/kernels";
import { rowNorm } from "./row_norm.js";

/**
 * Gemma's RMSNorm: out = x / sqrt(mean(x^2) + eps) * (1 + weight); weight decay pulls the factor to 1.
 *
 * x [..., dim], weight [dim]. arXiv:2403.08295.
 */
export function rmsNormGemma(x: Tensor, weight?: Tensor, options: { readonly eps?: number } = {}): Tensor {
  checkConfig("rmsNormGemma", options, ["eps"]);
  return rowNorm(x, { who: "rmsNormGemma", divisor: "inside", eps: options.eps ?? 1e-6, offset: 1, weight })
    .out;
}

/** Gemma's RMSNorm with its weight, which starts at 0. */
export class GemmaRMSNorm implements Module {
  readonly weight: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, { eps = 1e-6 }: { eps?: number } = {}) {
    this.weight = weight;
    this.eps = eps;
  }

  static init(gpu: Gpu, config: { dim: number; eps?: number }): GemmaRMSNorm {
    checkConfig("GemmaRMSNorm", config, ["dim", "eps"]);
    expectInteger("GemmaRMSNorm", "dim", config.dim, 1);
    return new GemmaRMSNorm(gpu.keep(gpu.zeros([config.dim])), config);
  }

  static fromParameters(
    config: { eps?: number },
    parameters: Readonly<Record<string, Tensor>>,
  ): GemmaRMSNorm {
    checkConfig("GemmaRMSNorm", config, ["eps"]);
    return new GemmaRMSNorm(takeParameter("GemmaRMSNorm", parameters, "weight"), config);
  }

  forward(x: Tensor): Tensor {
    return rmsNormGemma(x, this.weight, { eps: this.eps });
  }

  parameters(): Record<string, Tensor> {
    return { weight: this.weight };
  }
}
