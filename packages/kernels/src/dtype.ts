import { DTypeError } from "./errors.js";

/** Element type of a tensor. */
export type DType = "f32" | "f16" | "i32" | "u32";

/** What `Tensor.read()` resolves to: f16 is widened to float32. */
export type HostArray = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Bytes of one element. */
export const BYTES_PER_ELEMENT: Readonly<Record<DType, number>> = { f32: 4, f16: 2, i32: 4, u32: 4 };

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

/** Pack host numbers into the bytes that a buffer of `dtype` holds, padded to a multiple of four. */
export function encode(data: ArrayLike<number>, dtype: DType): Uint8Array<ArrayBuffer> {
  if (dtype !== "f16") return new Uint8Array(new ARRAYS[dtype](data).buffer);
  const half = new Uint16Array(data.length + (data.length & 1));
  for (let i = 0; i < data.length; i++) half[i] = toHalfBits(data[i] ?? 0);
  return new Uint8Array(half.buffer);
}

/** Read `count` elements of `dtype` from bytes. */
export function decode(bytes: ArrayBuffer, dtype: DType, count: number): HostArray {
  if (dtype !== "f16") return new ARRAYS[dtype](bytes, 0, count);
  const half = new Uint16Array(bytes, 0, count);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) out[i] = fromHalfBits(half[i] ?? 0);
  return out;
}

export function isFloat(dtype: DType): boolean {
  return dtype === "f32" || dtype === "f16";
}

/** Check that a dtype is known, and that a device of these features holds it. */
export function checkDType(
  who: string,
  dtype: string,
  features: { readonly f16: boolean },
): asserts dtype is DType {
  if (!Object.hasOwn(BYTES_PER_ELEMENT, dtype))
    throw new DTypeError(who, `dtype is "${dtype}"; it must be one of f32, f16, i32, u32`);
  if (dtype === "f16" && !features.f16)
    throw new DTypeError(
      who,
      "dtype is f16; this device has no shader-f16, or was opened without it (gpu.features.f16 is false): use f32",
    );
}
