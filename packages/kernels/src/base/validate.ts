import { ConfigError, DTypeError, ShapeError } from "./errors.js";
import { isFloat, showDType, STORED_RULE, type DType } from "./dtype.js";
import type { Gpu } from "../device/gpu.js";
import { show, TENSOR_BRAND } from "./show.js";

export { TENSOR_BRAND };

/** `[2, 3, 4]` as text. */
export function showShape(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** Number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/** Check that a shape is an array of non-negative integers. */
export function checkShape(who: string, shape: unknown): asserts shape is readonly number[] {
  if (!Array.isArray(shape))
    throw new ShapeError(who, `shape is ${show(shape)}; it must be an array of extents, for example [2, 3]`);
  for (const extent of shape as readonly number[]) {
    if (!Number.isSafeInteger(extent) || extent < 0) {
      throw new ShapeError(
        who,
        `shape is ${showShape(shape as readonly number[])}; every extent must be a non-negative integer`,
      );
    }
  }
}

/** Check that an argument is a tensor: without types it may be left out. */
export function expectTensor(who: string, name: string, value: unknown): void {
  if (typeof value !== "object" || value === null || !(TENSOR_BRAND in value)) {
    const how =
      Array.isArray(value) || ArrayBuffer.isView(value) ? " (gpu.tensor makes one of an array)" : "";
    throw new ConfigError(who, `${name} is ${show(value)}; it must be a tensor${how}`);
  }
}

/** Check the tensors of a call by name; what may be left out is left out of `tensors` by the caller. */
export function expectTensors(who: string, tensors: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(tensors)) expectTensor(who, name, value);
}

/** Check that an argument is a device: without types it may be left out. */
export function expectGpu(who: string, value: unknown): asserts value is Gpu {
  if (typeof value !== "object" || value === null || !("run" in value) || !("currentScope" in value))
    throw new ConfigError(who, `gpu is ${show(value)}; it must be a device (openDevice opens one)`);
}

/** Check that a list of tensors is one, and holds a tensor. */
export function expectTensorList(who: string, name: string, value: unknown): void {
  expectList(who, name, value, "tensors");
  if (value.length === 0) throw new ConfigError(who, `${name} is empty; it must hold a tensor`);
  value.forEach((entry, i) => {
    expectTensor(who, `${name}[${String(i)}]`, entry);
  });
}

/** Check that an argument is a list of integers. */
export function expectIntegers(
  who: string,
  name: string,
  value: unknown,
  min: number = -Infinity,
): asserts value is readonly number[] {
  expectList(who, name, value, "integers");
  value.forEach((entry, i) => {
    expectInteger(who, `${name}[${String(i)}]`, entry, min);
  });
}

/** Check that an argument is a list (of `what`, for the error). */
export function expectList(
  who: string,
  name: string,
  value: unknown,
  what: string,
): asserts value is readonly unknown[] {
  if (!Array.isArray(value))
    throw new ConfigError(who, `${name} is ${show(value)}; it must be a list of ${what}`);
}

/** Refuse arguments after the last one that a function takes. */
export function expectNoMore(who: string, rest: readonly unknown[]): void {
  if (rest.length > 0)
    throw new ConfigError(
      who,
      `it was given ${String(rest.length)} argument${rest.length > 1 ? "s" : ""} too many (${rest.map(show).join(", ")})`,
    );
}

/**
 * Check rank and extents. An expected extent is a number, a name (any value, but the same name must have the
 * same value), or null (any value). Returns the values of the names.
 */
export function expectShape(
  who: string,
  name: string,
  tensor: { readonly shape: readonly number[] },
  expected: readonly (number | string | null)[],
  names: Record<string, number> = {},
): Record<string, number> {
  expectTensor(who, name, tensor);
  const text = `[${expected.map((e) => (e === null ? "any" : typeof e === "string" && e in names ? `${e} = ${String(names[e])}` : String(e))).join(", ")}]`;
  const fail = (): never => {
    throw new ShapeError(who, `${name} has shape ${showShape(tensor.shape)}; it must be ${text}`);
  };
  if (tensor.shape.length !== expected.length) fail();
  expected.forEach((want, axis) => {
    const got = tensor.shape[axis] ?? -1;
    if (want === null) return;
    if (typeof want === "number") {
      if (want !== got) fail();
    } else if (want in names) {
      if (names[want] !== got) fail();
    } else {
      names[want] = got;
    }
  });
  return names;
}

/** Check the element type. */
export function expectDType(
  who: string,
  name: string,
  tensor: { readonly dtype: DType },
  ...allowed: DType[]
): void {
  expectTensor(who, name, tensor);
  if (!allowed.includes(tensor.dtype)) {
    throw new DTypeError(who, `${name} is ${showDType(tensor.dtype)}; it must be ${allowed.join(" or ")}`);
  }
}

/** Check that the elements are of a floating type that kernels of the device compute with. @throws DTypeError */
export function expectFloat(
  who: string,
  name: string,
  tensor: { readonly dtype: DType; readonly stored: boolean },
): void {
  if (tensor.stored) throw new DTypeError(who, `${name} is ${tensor.dtype}, on this device ${STORED_RULE}`);
  if (!isFloat(tensor.dtype)) throw new DTypeError(who, `${name} is ${tensor.dtype}; it must be f32 or f16`);
}

/** Normalise an axis that may count from the end. */
export function normalizeAxis(who: string, axis: number, rank: number): number {
  if (typeof axis !== "number")
    throw new ConfigError(
      who,
      `axis is ${show(axis)}; it must be an integer in ${String(-rank)}..${String(rank - 1)}`,
    );
  const positive = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || positive < 0 || positive >= rank) {
    throw new ShapeError(
      who,
      `axis is ${String(axis)}; it must lie in ${String(-rank)}..${String(rank - 1)}`,
    );
  }
  return positive;
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replace, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** The candidate nearest in spelling, if one is near enough to be meant. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const d = distance(word.toLowerCase(), candidate.toLowerCase());
    if (d < bestDistance) {
      best = candidate;
      bestDistance = d;
    }
  }
  return best;
}

/** Check that an argument is an object: without types it may be left out. */
export function expectObject(who: string, name: string, value: unknown): asserts value is object {
  if (typeof value !== "object" || value === null)
    throw new ConfigError(who, `${name} is ${show(value)}; it must be an object`);
}

/** Check that an argument is an object of named values: not a list, and not a tensor. */
export function expectRecord(
  who: string,
  name: string,
  value: unknown,
): asserts value is Readonly<Record<string, unknown>> {
  expectObject(who, name, value);
  if (Array.isArray(value) || ArrayBuffer.isView(value) || TENSOR_BRAND in value)
    throw new ConfigError(who, `${name} is ${show(value)}; it must be an object`);
}

/** Refuse a configuration that is missing, and keys that are not known, naming the nearest known one. */
export function checkConfig(who: string, config: unknown, known: readonly string[]): void {
  expectRecord(who, `the configuration (${known.join(", ")})`, config);
  for (const key of Object.keys(config)) {
    if (known.includes(key)) continue;
    const near = nearest(key, known);
    throw new ConfigError(
      who,
      `unknown key "${key}"${near === undefined ? "" : `; did you mean "${near}"?`} (known: ${known.join(", ")})`,
    );
  }
}

/** A range in words; Number.MIN_VALUE as the least stands for more than 0. */
function rangeText(min: number, max: number): string {
  const least = min === Number.MIN_VALUE ? " above 0" : min > -Infinity ? ` at least ${min}` : "";
  if (max === Infinity) return least;
  return Number.isInteger(min) ? ` in ${min}..${max}` : `${least}${least && ","} at most ${max}`;
}

/** Check that a number is an integer in a range. */
export function expectInteger(
  who: string,
  name: string,
  value: unknown,
  min: number = -Infinity,
  max: number = Infinity,
): asserts value is number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max)
    throw new ConfigError(who, `${name} is ${show(value)}; it must be an integer${rangeText(min, max)}`);
}

/** Check that a number is finite and in a range (bounds included). */
export function expectNumber(
  who: string,
  name: string,
  value: unknown,
  min: number = -Infinity,
  max: number = Infinity,
): asserts value is number {
  if (typeof value !== "number" || !Number.isFinite(value) || value < min || value > max)
    throw new ConfigError(who, `${name} is ${show(value)}; it must be a finite number${rangeText(min, max)}`);
}

/** Check that an argument is a function: without types it may be left out. */
export function expectFunction(who: string, name: string, value: unknown): void {
  if (typeof value !== "function")
    throw new ConfigError(who, `${name} is ${show(value)}; it must be a function`);
}

/** Check that a value is true or false. */
export function expectBoolean(who: string, name: string, value: unknown): asserts value is boolean {
  if (typeof value !== "boolean")
    throw new ConfigError(who, `${name} is ${show(value)}; it must be true or false`);
}

/** Check that a value is one of the listed strings. */
export function expectOneOf<T extends string>(
  who: string,
  name: string,
  value: unknown,
  allowed: readonly T[],
): asserts value is T {
  if (typeof value !== "string" || !(allowed as readonly string[]).includes(value)) {
    const near = typeof value === "string" ? nearest(value, allowed) : undefined;
    throw new ConfigError(
      who,
      `${name} is ${JSON.stringify(value)}; it must be one of ${allowed.join(", ")}${near === undefined ? "" : ` (did you mean "${near}"?)`}`,
    );
  }
}
