/** What a scope frees when it ends: a tensor, of which nothing else matters here. */
export interface Owned {
  dispose(): void;
}

/** The tensors made while a scope is open. */
export class Scope {
  readonly tensors: Set<Owned> = new Set<Owned>();
  readonly parent: Scope | undefined;

  constructor(parent: Scope | undefined) {
    this.parent = parent;
  }

  adopt(tensor: Owned): void {
    this.tensors.add(tensor);
  }

  forget(tensor: Owned): void {
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
export function collectTensors<T extends Owned>(
  value: unknown,
  isTensor: (value: unknown) => value is T,
  found: Set<T> = new Set<T>(),
  seen: Set<object> = new Set<object>(),
): Set<T> {
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
