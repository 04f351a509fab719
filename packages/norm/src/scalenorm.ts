import { checkConfig, mul, ShapeError, showShape, type Tensor } from "@x/kernels";
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
  checkConfig("scaleNorm", options, ["eps"]);
  checkConfig("scaleNorm", options, ["eps"]);
  if (g.size !== 1) throw new ShapeError("scaleNorm", `g has shape ${showShape(g.shape)}; it must be [1]`);
  return x.gpu.scope(() =>
    mul(rowNorm(x, { who: "scaleNorm", divisor: "length", eps: options.eps ?? 1e-5 }).out, g),
  );
}
