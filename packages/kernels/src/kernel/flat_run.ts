import type { Gpu } from "../device/gpu.js";
import { BYTES_PER_ELEMENT, type ElementType } from "../base/dtype.js";
import type { Tensor } from "../tensor/tensor.js";
import { grid1d, type Bindable, type Kernel, type ParamValue } from "./kernel.js";

/** A run of neighbouring rows, or of indices of a flat kernel. */
export interface Part {
  readonly first: number;
  readonly count: number;
}

/** Parts start at multiples of this many indices or rows: those of an even number of bytes are then aligned. */
const STEP = 128;

/**
 * Divides `count` indices, each of which takes `bytes` of a binding, into parts that a device can bind: one where all
 * fit, and none where not even some of them do. Parts start at multiples of `step`.
 */
export function partsOf(gpu: Gpu, count: number, bytes: number, step: number = STEP): Part[] {
  const limit = gpu.limits.maxStorageBufferBindingSize;
  if (count * bytes <= limit) return [{ first: 0, count }];
  const most = Math.floor(limit / bytes / step) * step;
  if (most === 0) return [];
  return Array.from({ length: Math.ceil(count / most) }, (_, i) => ({
    first: i * most,
    count: Math.min(most, count - i * most),
  }));
}

/** The call of a flat kernel: every index does the same with its own elements. */
interface FlatCall<V> {
  readonly variant?: V;
  /** Tensors of which index i holds the elements i * lanes to i * lanes + lanes - 1. */
  readonly flat: Readonly<Record<string, Tensor>>;
  /** What all indices read. */
  readonly bindings?: Readonly<Record<string, Bindable | undefined>>;
  /** Beside `count`, which is the number of indices of a dispatch. */
  readonly params?: Readonly<Record<string, ParamValue>>;
  readonly count: number;
  readonly lanes: 1 | 4;
  /** Name of the parameter that takes the first index, where the kernel needs to know it. */
  readonly first?: string;
  readonly size?: number;
}

const widthOf = (t: Tensor): number => BYTES_PER_ELEMENT[t.dtype as ElementType];

/**
 * Runs a kernel whose entry point is `flatMain(.., "params.count")`: in one dispatch, or in several where a tensor is
 * larger than what the device binds at a time.
 */
export function runFlat<V>(gpu: Gpu, kernel: Kernel<V>, call: FlatCall<V>): void {
  const { variant, flat, bindings = {}, params = {}, count, lanes, first, size = 64 } = call;
  const widest = Math.max(...Object.values(flat).map(widthOf)) * lanes;
  const parts = partsOf(gpu, count, widest);
  // A tensor of which not even a part fits is bound whole, and refused with its name and the limit.
  for (const part of parts.length > 0 ? parts : [{ first: 0, count }]) {
    const whole = part.count === count;
    const bind = (t: Tensor): Bindable => {
      if (whole) return t;
      const byteOffset = part.first * lanes * widthOf(t);
      const byteLength = Math.min(part.count * lanes * widthOf(t), t.byteLength - byteOffset);
      return { tensor: t, byteOffset, byteLength };
    };
    gpu.run(kernel, {
      variant: variant as V,
      bindings: {
        ...bindings,
        ...Object.fromEntries(Object.entries(flat).map(([name, t]) => [name, bind(t)])),
      },
      params: { ...params, count: part.count, ...(first === undefined ? {} : { [first]: part.first }) },
      workgroups: grid1d(Math.ceil(part.count / size)),
    });
  }
}
