import { checkConfig, expectInteger, takeParameter, type Gpu, type Module, type Tensor } from "@x/kernels";
import { rowNorm } from "./row_norm.js";

/**
 * LayerNorm: out = (x - mean) / sqrt(var + eps) * weight + bias over the last axis, var divided by dim.
 *
 * x [..., dim], weight and bias [dim], each optional; f32 or f16, statistics in f32 in two passes.
 * Ba et al. 2016, arXiv:1607.06450.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function layerNorm(
  x: Tensor,
  weight?: Tensor,
  options: { readonly eps?: number; readonly bias?: Tensor | undefined } = {},
): Tensor {
  checkConfig("layerNorm", options, ["eps", "bias"]);
  return rowNorm(x, {
    who: "layerNorm",
    center: true,
    divisor: "inside",
    eps: options.eps ?? 1e-5,
    weight,
    bias: options.bias,
  }).out;
}

/** LayerNorm with its weight and, if there is one, its bias. */
export class LayerNorm implements Module {
  readonly weight: Tensor | undefined;
  readonly bias: Tensor | undefined;
  readonly eps: number;

  constructor(weight?: Tensor, bias?: Tensor, { eps = 1e-5 }: { eps?: number } = {}) {
    this.weight = weight;
    this.bias = bias;
    this.eps = eps;
  }

  /** Weight of ones, bias of zeros. */
  static init(gpu: Gpu, config: { dim: number; eps?: number; bias?: boolean }): LayerNorm {
    checkConfig("LayerNorm", config, ["dim", "eps", "bias"]);
    expectInteger("LayerNorm", "dim", config.dim, 1);
    const bias = config.bias === false ? undefined : gpu.keep(gpu.zeros([config.dim]));
    return new LayerNorm(gpu.keep(gpu.full([config.dim], 1)), bias, config);
  }

  static fromParameters(config: { eps?: number }, parameters: Readonly<Record<string, Tensor>>): LayerNorm {
    checkConfig("LayerNorm", config, ["eps"]);
    return new LayerNorm(takeParameter("LayerNorm", parameters, "weight"), parameters["bias"], config);
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, { eps: this.eps, bias: this.bias });
  }

  parameters(): Record<string, Tensor> {
    return { ...(this.weight ? { weight: this.weight } : {}), ...(this.bias ? { bias: this.bias } : {}) };
  }
}
