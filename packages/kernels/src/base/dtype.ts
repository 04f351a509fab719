import { ConfigError, DTypeError } from "./errors.js";
import { show } from "./show.js";

/** Element type that kernels compute with. */
export type ElementType = "f32" | "f16" | "i32" | "u32";

/** Forms in which weights are only stored: kernels of a few ops widen them in registers. */
export type StoredType = "bf16" | "q8_0" | "q4_0" | "q4_1" | "q5_0" | "q5_1" | "q4_k" | "q5_k" | "q6_k";

/** Element type of a tensor, or the form in which it is stored. */
export type DType = ElementType | StoredType;

const STORED: readonly string[] = ["bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"];

/** Is a dtype only a form of storage, on every device? */
export const isStoredType = (dtype: string): dtype is StoredType => STORED.includes(dtype);

/** The end of an error about a tensor that is only stored: what takes it. */
export const STORED_RULE =
  'a form that is only stored: as weights it goes to linear, matmul (b), groupedMatmul, embedding and linearCrossEntropy, and cast(x, "f32") widens it';

/** A dtype for an error, with what takes it where it is only a form of storage. */
export const showDType = (dtype: DType): string => (isStoredType(dtype) ? `${dtype}, ${STORED_RULE}` : dtype);

/** What `Tensor.read()` resolves to: f16 is widened to float32. */
export type HostArray = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Bytes of one element of what kernels compute with. */
export const BYTES_PER_ELEMENT: Readonly<Record<ElementType, number>> = { f32: 4, f16: 2, i32: 4, u32: 4 };

const scratchF32 = new Float32Array(1);
const scratchU32 = new Uint32Array(scratchF32.buffer);

/** Round a float32 to the nearest half (ties to even); returns its 16 bits. */
export function toHalfBits(value: number): number {
  scratchF32[0] = value;
  const bits = scratchU32[0] ?? 0;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to 65520 or more: infinity
  if (magnitude < 0x33000001) return sign; // at most half of the smallest subnormal
  if (magnitude < 0x38800000) {
    // subnormal half: shift the mantissa with its hidden bit
    const shift = 126 - (magnitude >>> 23);
    const mantissa = (magnitude & 0x7fffff) | 0x800000;
    const half = mantissa >>> shift;
    const rest = mantissa & ((1 << shift) - 1);
    const middle = 1 << (shift - 1);
    return sign | (half + (rest > middle || (rest === middle && (half & 1) === 1) ? 1 : 0));
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** The number that 16 bits of a half stand for. */
export function fromHalfBits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa === 0 ? sign * Infinity : NaN;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** Round a float32 to the nearest bfloat16 (ties to even); returns its 16 bits. */
export function toBfloat16Bits(value: number): number {
  scratchF32[0] = value;
  const bits = scratchU32[0] ?? 0;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40; // NaN
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

const ARRAYS = { f32: Float32Array, i32: Int32Array, u32: Uint32Array };

const RANGES = { i32: [-(2 ** 31), 2 ** 31 - 1], u32: [0, 2 ** 32 - 1] } as const;

/** The largest finite magnitude of each floating dtype, and the least that rounds to infinity. */
const LARGEST = { f32: [3.4028234663852886e38, 2 ** 128 - 2 ** 103], f16: [65504, 65520] } as const;

/** Typed arrays all of whose elements a dtype holds. */
const FITTING: Readonly<Record<ElementType, readonly (abstract new (...args: never[]) => unknown)[]>> = {
  f32: [
    Float32Array,
    Int8Array,
    Uint8Array,
    Uint8ClampedArray,
    Int16Array,
    Uint16Array,
    Int32Array,
    Uint32Array,
  ],
  f16: [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array],
  i32: [Int32Array, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array],
  u32: [Uint32Array, Uint8Array, Uint8ClampedArray, Uint16Array],
};

/** What a value that is not a number is, and what to give instead. */
function notANumber(value: unknown): string {
  if (Array.isArray(value)) return "an array; the data are flat, in row-major order: data.flat(Infinity)";
  return `${show(value)}; every element must be a number`;
}

/** Refuse the first element that is not a number, or that a dtype does not hold, with its index. */
function checkElements(who: string, data: ArrayLike<number>, dtype: ElementType): void {
  const fail = (i: number, what: string): never => {
    throw new DTypeError(who, `element ${i} is ${what}`);
  };
  const whole = dtype === "i32" || dtype === "u32";
  const [low, high] = whole ? RANGES[dtype] : [0, 0];
  const [largest, limit] = whole ? [0, 0] : LARGEST[dtype];
  for (let i = 0; i < data.length; i++) {
    const value: unknown = data[i];
    if (typeof value !== "number") fail(i, notANumber(value));
    else if (whole) {
      if (!Number.isInteger(value) || value < low || value > high)
        fail(i, `${value}; ${dtype} takes integers in ${low}..${high}`);
    } else if (Math.abs(value) >= limit && Math.abs(value) !== Infinity)
      fail(i, `${value}; the largest finite ${dtype} is ${largest}`);
  }
}

/** Check that host data are an array or a typed array of numbers that a dtype holds. @throws ConfigError, DTypeError */
function checkData(who: string, data: unknown, dtype: ElementType): asserts data is ArrayLike<number> {
  const typed = ArrayBuffer.isView(data) && !(data instanceof DataView);
  if (!typed && !Array.isArray(data)) {
    const hint = data instanceof ArrayBuffer ? " (fromBytes takes bytes)" : "";
    throw new ConfigError(
      who,
      `data is ${show(data)}; it must be an array or a typed array of numbers${hint}`,
    );
  }
  if (data instanceof BigInt64Array || data instanceof BigUint64Array)
    throw new DTypeError(
      who,
      `data is a ${data.constructor.name}; it must hold numbers: Array.from(data, Number)`,
    );
  if (FITTING[dtype].some((kind) => data instanceof kind)) return;
  checkElements(who, data as ArrayLike<number>, dtype);
}

/**
 * Pack host numbers into the bytes that a buffer of `dtype` holds, padded to a multiple of four. They are a view of `data`
 * where it is a typed array of the dtype.
 *
 * @throws ConfigError for what is not an array; DTypeError naming the first element that is not a number or does not
 * fit the dtype.
 */
export function encode(who: string, data: unknown, dtype: ElementType): Uint8Array<ArrayBuffer> {
  checkData(who, data, dtype);
  if (dtype !== "f16") {
    const own = data instanceof ARRAYS[dtype] && data.buffer instanceof ArrayBuffer;
    const { buffer, byteOffset, byteLength } = own ? data : new ARRAYS[dtype](data);
    return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  }
  const half = new Uint16Array(data.length + (data.length & 1));
  for (let i = 0; i < data.length; i++) half[i] = toHalfBits(data[i] ?? 0);
  return new Uint8Array(half.buffer);
}

/** Read `count` elements of `dtype` from bytes. */
export function decode(bytes: ArrayBuffer, dtype: ElementType, count: number): HostArray {
  if (dtype !== "f16") return new ARRAYS[dtype](bytes, 0, count);
  const half = new Uint16Array(bytes, 0, count);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) out[i] = fromHalfBits(half[i] ?? 0);
  return out;
}

export function isFloat(dtype: DType): boolean {
  return dtype === "f32" || dtype === "f16";
}

/** Check that a dtype is known. @throws DTypeError */
export function checkKnownDType(who: string, dtype: unknown): asserts dtype is DType {
  if (typeof dtype === "string" && (Object.hasOwn(BYTES_PER_ELEMENT, dtype) || isStoredType(dtype))) return;
  throw new DTypeError(
    who,
    `dtype is ${show(dtype)}; it must be one of f32, f16, i32, u32, or ${STORED.join(", ")}, forms that are only stored`,
  );
}

/** Check that a dtype is known, and that kernels of a device of these features compute with it. @throws DTypeError */
export function checkDType(
  who: string,
  dtype: unknown,
  features: { readonly f16: boolean },
): asserts dtype is ElementType {
  checkKnownDType(who, dtype);
  if (isStoredType(dtype))
    throw new DTypeError(
      who,
      `dtype is ${dtype}, a form that is only stored; gpu.tensor and gpu.fromBytes make such a tensor`,
    );
  if (dtype === "f16" && !features.f16)
    throw new DTypeError(
      who,
      "dtype is f16; this device has no shader-f16, or was opened without it (gpu.features.f16 is false): use f32",
    );
}
