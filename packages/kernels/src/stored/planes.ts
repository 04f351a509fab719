import { BYTES_PER_ELEMENT, type ElementType } from "../base/dtype.js";
import { partsOf, type Part } from "../kernel/flat_run.js";
import type { Bindable } from "../kernel/kernel.js";
import type { Tensor } from "../tensor/tensor.js";
import { planeRanges, planesOf, type PackedType } from "./forms.js";
import { planeName } from "./loads.wgsl.js";

/** The type in whose words a tensor is read: undefined where kernels bind the tensor as elements. */
export const packedType = (t: Tensor): PackedType | undefined =>
  t.stored ? (t.dtype as PackedType) : undefined;

/** The planes of a stored tensor, or of some of its rows, by the names of `storedBindings`. */
export function storedPlanes(t: Tensor, name: string, rows?: Part): Record<string, Bindable> {
  const width = t.shape.at(-1) ?? 1;
  return Object.fromEntries(
    planeRanges(t.dtype as PackedType, t.size).map(({ plane, offset, length }) => [
      planeName(name, plane.name),
      rows === undefined
        ? { tensor: t, byteOffset: offset, byteLength: length }
        : {
            tensor: t,
            byteOffset: offset + (rows.first * width * plane.rate) / 256,
            byteLength: Math.ceil((rows.count * width * plane.rate) / 256),
          },
    ]),
  );
}

/** A matrix [rows, width] as bindings of a kernel, or some of its rows. */
export function matrixBindings(
  t: Tensor,
  name: string,
  packed: boolean,
  rows?: Part,
): Record<string, Bindable> {
  if (packed) return storedPlanes(t, name, rows);
  if (rows === undefined) return { [name]: t };
  const bytes = (t.shape.at(-1) ?? 1) * BYTES_PER_ELEMENT[t.dtype as ElementType];
  return { [name]: { tensor: t, byteOffset: rows.first * bytes, byteLength: rows.count * bytes } };
}

/** Bytes of an element in each plane of a tensor. */
const rates = (t: Tensor): number[] =>
  t.stored || t.dtype === "f16"
    ? planesOf(t.dtype as PackedType).map((plane) => plane.rate / 256)
    : [BYTES_PER_ELEMENT[t.dtype as ElementType]];

/** The matrices of a stack [count, rows, width] that a kernel binds at a time, as `matrixParts`. */
export function stackParts(t: Tensor): Part[] {
  const size = (t.shape[1] ?? 1) * (t.shape[2] ?? 1);
  const bytes = rates(t).map((rate) => size * rate);
  let step = 1;
  while (bytes.some((n) => (step * n) % 256 !== 0)) step++;
  return partsOf(t.gpu, t.shape[0] ?? 1, Math.max(...bytes), step);
}

/** The rows of a matrix that a kernel binds at a time; one part where all fit, none where not even some do. */
export function matrixParts(t: Tensor): Part[] {
  const [rows = 1, width = 1] = t.shape;
  return partsOf(t.gpu, rows, width * Math.max(...rates(t)));
}
