import { ConfigError, DTypeError, ShapeError } from "../base/errors.js";
import { fromHalfBits, toHalfBits, type StoredType } from "../base/dtype.js";
import { show } from "../base/show.js";
import { expectNoMore, expectOneOf } from "../base/validate.js";
import { expectQuantForm, QUANT_FORMS } from "./forms.js";
import { pack, unpack } from "./pack.js";

/** Forms that `quantize` writes. */
export type QuantizedType = "q8_0" | "q4_0";

const BLOCK = 32;
const f32 = Math.fround;

/** A block of signed bytes: the scale is the largest magnitude over 127; halves round away from zero. */
function quantizeBytes(data: ArrayLike<number>, first: number, out: Uint8Array, at: number): void {
  let largest = 0;
  for (let i = first; i < first + BLOCK; i++) largest = Math.max(largest, Math.abs(f32(data[i]!)));
  const scale = f32(largest / 127);
  const inverse = scale === 0 ? 0 : f32(1 / scale);
  writeHalf(out, at, scale);
  for (let i = 0; i < BLOCK; i++) {
    const value = f32(f32(data[first + i]!) * inverse);
    out[at + 2 + i] = Math.sign(value) * Math.floor(Math.abs(value) + 0.5);
  }
}

/** A block of four bits: the element of the largest magnitude becomes -8 times the scale. */
function quantizeNibbles(data: ArrayLike<number>, first: number, out: Uint8Array, at: number): void {
  let extreme = 0;
  for (let i = first; i < first + BLOCK; i++)
    if (Math.abs(f32(data[i]!)) > Math.abs(extreme)) extreme = f32(data[i]!);
  const scale = f32(extreme / -8);
  const inverse = scale === 0 ? 0 : f32(1 / scale);
  writeHalf(out, at, scale);
  const quant = (i: number): number => Math.min(15, Math.trunc(f32(f32(f32(data[i]!) * inverse) + 8.5)));
  for (let i = 0; i < BLOCK / 2; i++)
    out[at + 2 + i] = quant(first + i) | (quant(first + BLOCK / 2 + i) << 4);
}

function writeHalf(out: Uint8Array, at: number, value: number): void {
  const bits = toHalfBits(value);
  if (!Number.isFinite(fromHalfBits(bits)))
    throw new DTypeError("quantize", `a block needs the scale ${value}; the largest finite f16 is 65504`);
  out[at] = bits & 255;
  out[at + 1] = bits >> 8;
}

/**
 * Blocks of 32 numbers as a GGUF file holds them, with the rounding of its reference implementation: q8_0 is a half d
 * and 32 signed bytes, d q; q4_0 is a half d and 32 quants of four bits, d (q - 8).
 *
 * data: numbers in row-major order, of which the last axis is a multiple of 32; they are rounded to f32 first. Returns
 * the bytes, which `gpu.fromBytes(bytes, shape, type)` takes.
 *
 * @throws ConfigError, ShapeError; DTypeError for a number that is not finite
 */
export function quantize(
  data: ArrayLike<number>,
  type: QuantizedType,
  ...rest: never[]
): Uint8Array<ArrayBuffer> {
  const who = "quantize";
  if (!Array.isArray(data) && (!ArrayBuffer.isView(data) || data instanceof DataView))
    throw new ConfigError(who, `data is ${show(data)}; it must be an array or a typed array of numbers`);
  expectOneOf(who, "type", type, ["q8_0", "q4_0"]);
  expectNoMore(who, rest);
  if (data.length % BLOCK !== 0)
    throw new ShapeError(who, `given ${data.length} numbers; they must be a multiple of ${BLOCK}, a block`);
  for (let i = 0; i < data.length; i++)
    if (!Number.isFinite(data[i]))
      throw new DTypeError(who, `element ${i} is ${show(data[i])}; ${type} holds finite numbers`);
  const { fileBytes } = QUANT_FORMS[type];
  const out = new Uint8Array((data.length / BLOCK) * fileBytes);
  const write = type === "q8_0" ? quantizeBytes : quantizeNibbles;
  for (let i = 0; i < data.length / BLOCK; i++) write(data, i * BLOCK, out, i * fileBytes);
  return out;
}

/**
 * The numbers of a GGUF file's blocks, exact but for the rounding to f32.
 *
 * bytes: whole blocks of `type`, one of q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k and q6_k.
 *
 * @throws ConfigError, ShapeError
 */
export function dequantize(
  bytes: Uint8Array,
  type: Exclude<StoredType, "bf16">,
  ...rest: never[]
): Float32Array<ArrayBuffer> {
  const who = "dequantize";
  if (!((bytes as unknown) instanceof Uint8Array))
    throw new ConfigError(who, `bytes are ${show(bytes)}; they must be a Uint8Array`);
  const form = expectQuantForm(who, type);
  expectNoMore(who, rest);
  if (bytes.length % form.fileBytes !== 0)
    throw new ShapeError(
      who,
      `given ${bytes.length} bytes; a block of ${type} has ${form.fileBytes}, and blocks must be whole`,
    );
  const size = (bytes.length / form.fileBytes) * form.block;
  return unpack(type, pack(type, bytes, size), size);
}
