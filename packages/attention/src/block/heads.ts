import { linear, type Tensor } from "@x/kernels";

/** x W^T + b, cut into heads: [batch, seq, heads, headDim]. */
export function splitHeads(x: Tensor, heads: number, weight: Tensor, bias?: Tensor): Tensor {
  const [batch, seq] = x.shape as [number, number];
  return linear(x, weight, bias).reshape([batch, seq, heads, weight.shape[0]! / heads]);
}

/** Join the heads of [batch, seq, heads, valueDim] and project: o W^T + b (+ residual). */
export function mergeHeads(o: Tensor, weight: Tensor, bias?: Tensor, residual?: Tensor): Tensor {
  const [batch, seq, heads, dim] = o.shape as [number, number, number, number];
  return linear(o.reshape([batch, seq, heads * dim]), weight, bias, { residual });
}
