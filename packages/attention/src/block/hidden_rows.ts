import { cast, e, elementwise, expectDType, expectShape, type Tensor } from "@x/kernels";

const kept = elementwise("keptRows", ["x", "mask"], (x, mask) => e.select(mask, x, 0));

/**
 * x [batch, seq, dim] with zeros where keyMask (i32 [batch, seq]) is 0: before a product over rows, in which 0 times a
 * NaN of a padded row would be a NaN. No gradient reaches those rows. Without a mask, x itself.
 *
 * @throws ShapeError, DTypeError
 */
export function hideRows(who: string, x: Tensor, keyMask: Tensor | undefined): Tensor {
  if (!keyMask) return x;
  expectShape(who, "keyMask", keyMask, x.shape.slice(0, 2));
  expectDType(who, "keyMask", keyMask, "i32");
  return x.gpu.scope(() => kept(x, cast(keyMask, x.dtype).reshape([...keyMask.shape, 1])));
}
