import type { Bindable } from "../kernel/kernel.js";
import type { Tensor } from "../tensor/tensor.js";
import { planeRanges, type PackedType } from "./forms.js";
import { planeName } from "./loads.wgsl.js";

/** The type in whose words a tensor is read: undefined where kernels bind the tensor as elements. */
export const packedType = (t: Tensor): PackedType | undefined =>
  t.stored ? (t.dtype as PackedType) : undefined;

/** The planes of a stored tensor, by the names of `storedBindings`. */
export function storedPlanes(t: Tensor, name: string): Record<string, Bindable> {
  return Object.fromEntries(
    planeRanges(t.dtype as PackedType, t.size).map(({ plane, offset, length }) => [
      planeName(name, plane.name),
      { tensor: t, byteOffset: offset, byteLength: length },
    ]),
  );
}
