import type { Tensor } from "../tensor/tensor.js";

/** The tensors made while a scope is open. */
export class Scope {
  readonly tensors: Set<Tensor> = new Set<Tensor>();
  readonly parent: Scope | undefined;

  constructor(parent: Scope | undefined) {
    this.parent = parent;
  }

  adopt(tensor: Tensor): void {
    this.tensors.add(tensor);
  }

  forget(tensor: Tensor): void {
    this.tensors.delete(tensor);
  }

  /** Called when the scope ends, before its tensors are freed. */
  readonly endings: (() => void)[] = [];
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Every tensor in a value: itself, or inside arrays, maps, sets and plain objects, nested. */
export function collectTensors(
  value: unknown,
  isTensor: (value: unknown) => value is Tensor,
  found: Set<Tensor> = new Set<Tensor>(),
  seen: Set<object> = new Set<object>(),
): Set<Tensor> {
  if (typeof value !== "object" || value === null || seen.has(value)) return found;
  if (isTensor(value)) {
    found.add(value);
    return found;
  }
  seen.add(value);
  if (Array.isArray(value) || value instanceof Set) {
    for (const item of value) collectTensors(item, isTensor, found, seen);
  } else if (value instanceof Map) {
    for (const item of value.values()) collectTensors(item, isTensor, found, seen);
  } else if (isPlain(value)) {
    for (const item of Object.values(value)) collectTensors(item, isTensor, found, seen);
  }
  return found;
}
