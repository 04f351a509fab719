import { concat, slice, type Tensor } from "@x/kernels";

/** Every token's predecessor; that of the first is prev [batch, dim], or zero. */
export function shifted(x: Tensor, prev: Tensor | undefined): Tensor {
  const [batch, seq, dim] = x.shape as [number, number, number];
  const first = prev ? prev.reshape([batch, 1, dim]) : x.gpu.zeros([batch, 1, dim]);
  return seq === 1 ? first : concat([first, slice(x, { axis: 1, end: seq - 1 })], 1);
}

/** [batch, dim] */
export function lastToken(x: Tensor): Tensor {
  const [batch, seq, dim] = x.shape as [number, number, number];
  return slice(x, { axis: 1, start: seq - 1 }).reshape([batch, dim]);
}
