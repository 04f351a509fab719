/**
 * The numbers that the blocks of a GGUF tensor stand for. Each is a product of few bits (and a difference of two such),
 * so that float32 rounds it once, as ggml's own functions do.
 */
import { FormatError, fromHalfBits } from "@x/kernels";
import { decodeTensor } from "@x/kernels/safetensors";
import type { TensorType } from "./tensor_types.js";

/** Writes the numbers of the block that begins at byte `at` from index `o` of `out`. */
type BlockReader = (block: Block, at: number, out: Float32Array, o: number) => void;

interface Block {
  readonly bytes: Uint8Array;
  readonly half: (at: number) => number;
}

/** The number that 16 bits of a half stand for, for all of them. */
let halves: Float32Array | undefined;
function halfTable(): Float32Array {
  halves ??= Float32Array.from({ length: 2 ** 16 }, (_, bits) => fromHalfBits(bits));
  return halves;
}

const signed = (byte: number): number => (byte << 24) >> 24;

/** d, 32 signed bytes: x = d q. */
const q8_0: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at);
  for (let j = 0; j < 32; j++) out[o + j] = d * signed(bytes[at + 2 + j]!);
};

/** d, 16 bytes of nibbles: value j is the low half of byte j, value j + 16 the high one; x = d (q - 8). */
const q4_0: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at);
  for (let j = 0; j < 16; j++) {
    const byte = bytes[at + 2 + j]!;
    out[o + j] = d * ((byte & 15) - 8);
    out[o + j + 16] = d * ((byte >> 4) - 8);
  }
};

/** d, m, nibbles as in Q4_0: x = d q + m. */
const q4_1: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at);
  const m = half(at + 2);
  for (let j = 0; j < 16; j++) {
    const byte = bytes[at + 4 + j]!;
    out[o + j] = d * (byte & 15) + m;
    out[o + j + 16] = d * (byte >> 4) + m;
  }
};

/** The fifth bit of value j of 32: bit j of the four bytes at `at`. */
const fifth = (bytes: Uint8Array, at: number, j: number): number =>
  ((bytes[at + (j >> 3)]! >> (j & 7)) & 1) << 4;

/** d, four bytes of fifth bits, nibbles as in Q4_0: x = d (q - 16). */
const q5_0: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at);
  for (let j = 0; j < 16; j++) {
    const byte = bytes[at + 6 + j]!;
    out[o + j] = d * (((byte & 15) | fifth(bytes, at + 2, j)) - 16);
    out[o + j + 16] = d * (((byte >> 4) | fifth(bytes, at + 2, j + 16)) - 16);
  }
};

/** d, m, four bytes of fifth bits, nibbles as in Q4_0: x = d q + m. */
const q5_1: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at);
  const m = half(at + 2);
  for (let j = 0; j < 16; j++) {
    const byte = bytes[at + 8 + j]!;
    out[o + j] = d * ((byte & 15) | fifth(bytes, at + 4, j)) + m;
    out[o + j + 16] = d * ((byte >> 4) | fifth(bytes, at + 4, j + 16)) + m;
  }
};

/** Scale and minimum j of eight, six bits each, from the twelve bytes at `at` of Q4_K and Q5_K. */
function scaleAndMinimum(bytes: Uint8Array, at: number, j: number): [scale: number, minimum: number] {
  const low = bytes[at + j]!;
  const high = bytes[at + j + 4]!;
  if (j < 4) return [low & 63, high & 63];
  const first = bytes[at + j - 4]!;
  return [(high & 15) | ((first >> 6) << 4), (high >> 4) | ((low >> 6) << 4)];
}

/** d, dmin, twelve bytes of scales and minima, nibbles, each 32 bytes for 64 values: x = d scale q - dmin minimum. */
const q4_k: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at);
  const dmin = half(at + 2);
  for (let j = 0; j < 8; j++) {
    const [scale, minimum] = scaleAndMinimum(bytes, at + 4, j);
    const nibbles = at + 16 + 32 * (j >> 1);
    for (let l = 0; l < 32; l++) {
      const byte = bytes[nibbles + l]!;
      out[o + 32 * j + l] = d * scale * (j & 1 ? byte >> 4 : byte & 15) - dmin * minimum;
    }
  }
};

/** As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte l is that of value l of group j. */
const q5_k: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at);
  const dmin = half(at + 2);
  for (let j = 0; j < 8; j++) {
    const [scale, minimum] = scaleAndMinimum(bytes, at + 4, j);
    const nibbles = at + 48 + 32 * (j >> 1);
    for (let l = 0; l < 32; l++) {
      const byte = bytes[nibbles + l]!;
      const q = (j & 1 ? byte >> 4 : byte & 15) | (((bytes[at + 16 + l]! >> j) & 1) << 4);
      out[o + 32 * j + l] = d * scale * q - dmin * minimum;
    }
  }
};

/**
 * 128 bytes of low nibbles, 64 of high bits, 16 signed scales, d. The quarters of each half of 128 values take low
 * nibbles 0 to 31, low nibbles 32 to 63, the high ones in the same order, and bits 0-1, 2-3, 4-5, 6-7 of 32 bytes;
 * x = d scale (q - 32), one scale for 16 values.
 */
const q6_k: BlockReader = ({ bytes, half }, at, out, o) => {
  const d = half(at + 208);
  for (let group = 0; group < 8; group++) {
    const [part, quarter] = [group >> 2, group & 3];
    const low = at + 64 * part + 32 * (quarter & 1);
    const high = at + 128 + 32 * part;
    for (let l = 0; l < 32; l++) {
      const byte = bytes[low + l]!;
      const q = (quarter >> 1 ? byte >> 4 : byte & 15) | (((bytes[high + l]! >> (2 * quarter)) & 3) << 4);
      const scale = signed(bytes[at + 192 + 2 * group + (l >> 4)]!);
      out[o + 32 * group + l] = d * scale * (q - 32);
    }
  }
};

const READERS: Readonly<Record<string, BlockReader>> = {
  Q4_0: q4_0,
  Q4_1: q4_1,
  Q5_0: q5_0,
  Q5_1: q5_1,
  Q8_0: q8_0,
  Q4_K: q4_k,
  Q5_K: q5_k,
  Q6_K: q6_k,
};
const PLAIN = ["F64", "F32", "F16", "BF16"] as const;

/** Types of weights that are read. */
export const READABLE: readonly string[] = [...PLAIN, ...Object.keys(READERS)];

/** The numbers of a tensor's bytes, rounded to float32. @throws FormatError for a type that is not read */
export function dequantise(file: string, name: string, type: TensorType, bytes: Uint8Array): Float32Array {
  const plain = PLAIN.find((known) => known === type.name);
  const count = (bytes.length / type.bytes) * type.values;
  if (plain) {
    const entry = { dtype: plain, shape: [count], begin: 0, end: bytes.length };
    return decodeTensor(file, name, entry, bytes) as Float32Array;
  }
  const read = READERS[type.name];
  if (!read)
    throw new FormatError(
      file,
      `tensor ${JSON.stringify(name)} is ${type.name}; weights of ${READABLE.join(", ")} are read`,
    );
  const table = halfTable();
  const block: Block = { bytes, half: (at) => table[bytes[at]! | (bytes[at + 1]! << 8)]! };
  const out = new Float32Array(count);
  for (let at = 0, o = 0; at < bytes.length; at += type.bytes, o += type.values) read(block, at, out, o);
  return out;
}
