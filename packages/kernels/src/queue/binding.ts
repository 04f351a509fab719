import type { BoundRange } from "./command.js";
import { BYTES_PER_ELEMENT, STORED_RULE, type ElementType } from "../base/dtype.js";
import { ConfigError, DTypeError, KernelsError, OutOfMemoryError } from "../base/errors.js";
import type { Gpu } from "../device/gpu.js";
import type { Bindable, ResolvedBinding } from "../kernel/kernel.js";
import { Tensor } from "../tensor/tensor.js";
import { expectObject, expectTensor, showShape } from "../base/validate.js";

/** What a dispatch binds, in the kernel's order. @throws ConfigError, KernelsError, OutOfMemoryError */
export function bindRanges(
  gpu: Gpu,
  kernel: string,
  bindings: readonly ResolvedBinding[],
  given: Readonly<Record<string, Bindable | undefined>>,
): BoundRange[] {
  const ranges = bindings.map(({ name }) => {
    const bindable = given[name];
    if (bindable === undefined)
      throw new ConfigError(
        kernel,
        `binding ${name} is missing; this variant binds ${bindings.map((b) => b.name).join(", ")} (given: ${givenNames(given)})`,
      );
    return bindRange(gpu, kernel, name, bindable);
  });
  for (let i = 0; i < ranges.length; i++) {
    for (let j = 0; j < i; j++) {
      if (ranges[i]?.storage !== ranges[j]?.storage) continue;
      const a = bindings[i];
      const b = bindings[j];
      if (a?.access === "read" && b?.access === "read") continue;
      throw new ConfigError(
        kernel,
        `bindings ${String(b?.name)} and ${String(a?.name)} are the same buffer and one of them is written`,
      );
    }
  }
  return ranges;
}

function givenNames(given: Readonly<Record<string, Bindable | undefined>>): string {
  return (
    Object.keys(given)
      .filter((name) => given[name] !== undefined)
      .join(", ") || "none"
  );
}

function bindRange(gpu: Gpu, kernel: string, name: string, given: Bindable): BoundRange {
  expectObject(kernel, `binding ${name}`, given);
  const { tensor, offset, length, part } = rangeOf(kernel, name, given);
  if (tensor.gpu !== gpu)
    throw new KernelsError(
      kernel,
      `${name} is on another device; all bindings must be on the one that runs the kernel`,
    );
  const storage = tensor.storage;
  const alignment = gpu.limits.minStorageBufferOffsetAlignment;
  if (part && (offset % alignment !== 0 || offset + length > tensor.byteLength || offset < 0)) {
    throw new ConfigError(
      kernel,
      `${name} binds ${part} of ${String(tensor.size)} elements; ` +
        `the range must lie inside and start at a multiple of ${String(alignment)} bytes`,
    );
  }
  const size = Math.min(Math.ceil(Math.max(length, 16) / 16) * 16, storage.bytes - offset);
  if (size > gpu.limits.maxStorageBufferBindingSize) {
    throw new OutOfMemoryError(
      kernel,
      `${name} of shape ${showShape(tensor.shape)} takes ${String(size)} bytes; this device binds at most ${String(gpu.limits.maxStorageBufferBindingSize)}`,
      size,
    );
  }
  return { storage, offset, size };
}

/** What is bound, in bytes; `part` names a range that is not the whole tensor. @throws ConfigError, DTypeError */
function rangeOf(
  kernel: string,
  name: string,
  given: Bindable,
): { tensor: Tensor; offset: number; length: number; part: string | undefined } {
  const whole = given instanceof Tensor || !("tensor" in given);
  const tensor = whole ? given : given.tensor;
  expectTensor(kernel, `binding ${name}`, tensor);
  if (!whole && "byteOffset" in given)
    return {
      tensor,
      offset: given.byteOffset,
      length: given.byteLength,
      part: `bytes ${String(given.byteOffset)}..${String(given.byteOffset + given.byteLength)}`,
    };
  if (tensor.stored)
    throw new DTypeError(kernel, `${name} is ${tensor.dtype}, on this device ${STORED_RULE}`);
  if (whole) return { tensor, offset: 0, length: tensor.byteLength, part: undefined };
  const width = BYTES_PER_ELEMENT[tensor.dtype as ElementType];
  return {
    tensor,
    offset: given.offset * width,
    length: given.length * width,
    part: `elements ${String(given.offset)}..${String(given.offset + given.length)}`,
  };
}
