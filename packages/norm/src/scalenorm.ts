import {
  checkConfig,
  expectDType,
  expectInteger,
  ShapeError,
  showShape,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { rowNorm } from "./row_norm.js";

/** x / max(||x||, eps) over the last axis. */
export function l2Normalize(x: Tensor, options: { readonly eps?: number } = {}): Tensor {
  checkConfig("l2Normalize", options, ["eps"]);
  return rowNorm(x, { who: "l2Normalize", divisor: "length", eps: options.eps ?? 1e-12 }).out;
}

/**
 * ScaleNorm: out = g x / max(||x||_2, eps), with one scalar g that starts at sqrt(dim).
 *
 * x [..., dim], g [1]. Nguyen and Salazar 2019, arXiv:1910.05895.
 *
 * @throws ShapeError, DTypeError
 */
export function scaleNorm(x: Tensor, g: Tensor, options: { readonly eps?: number } = {}): Tensor {
  const who = "scaleNorm";
  checkConfig(who, options, ["eps"]);
  if (g.size !== 1) throw new ShapeError(who, `g has shape ${showShape(g.shape)}; it must be [1]`);
  expectDType(who, "g", g, "f32");
  return rowNorm(x, { who, divisor: "length", eps: options.eps ?? 1e-5, gain: g }).out;
}

/** ScaleNorm with its one parameter, g. */
export class ScaleNorm implements Module {
  readonly g: Tensor;
  readonly eps: number;

  constructor(g: Tensor, { eps = 1e-5 }: { eps?: number } = {}) {
    this.g = g;
    this.eps = eps;
  }

  /** g = sqrt(dim). */
  static init(gpu: Gpu, config: { dim: number; eps?: number }): ScaleNorm {
    checkConfig("ScaleNorm", config, ["dim", "eps"]);
    expectInteger("ScaleNorm", "dim", config.dim, 1);
    return new ScaleNorm(gpu.keep(gpu.full([1], Math.sqrt(config.dim))), config);
  }

  static fromParameters(config: { eps?: number }, parameters: Readonly<Record<string, Tensor>>): ScaleNorm {
    checkConfig("ScaleNorm", config, ["eps"]);
    return new ScaleNorm(takeParameter("ScaleNorm", parameters, "g"), config);
  }

  forward(x: Tensor): Tensor {
    return scaleNorm(x, this.g, { eps: this.eps });
  }

  parameters(): Record<string, Tensor> {
    return { g: this.g };
  }
}
