import { cast, e, elementwise, type Tensor } from "@x/kernels";

const kept = elementwise("keptRows", ["x", "mask"], (x, mask) => e.select(mask, x, 0));

/**
 * x [batch, seq, dim] with zeros where keyMask (i32 [batch, seq]) is 0: before a product over rows, in which 0 times a
 * NaN of a padded row would be a NaN. No gradient reaches those rows. Without a mask, x itself.
 */
export function hideRows(x: Tensor, keyMask: Tensor | undefined): Tensor {
  if (!keyMask) return x;
  return x.gpu.scope(() => kept(x, cast(keyMask, x.dtype).reshape([...keyMask.shape, 1])));
}
