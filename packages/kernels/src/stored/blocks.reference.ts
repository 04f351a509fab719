import { fromHalfBits } from "../base/dtype.js";

/*
 * The blocks of GGUF files in float64, element by element, as the format defines them; written from the format's
 * definition and not from `pack.ts`.
 */

const half = (b: Uint8Array, at: number): number => fromHalfBits(b[at]! + 256 * b[at + 1]!);
const nibble = (byte: number, high: boolean): number => (high ? byte >> 4 : byte & 15);
const bit = (byte: number, i: number): number => (byte >> i) & 1;
const signed = (byte: number): number => (byte > 127 ? byte - 256 : byte);

/** Element e of 32 in sixteen bytes: the low halves are the first sixteen elements. */
const low32 = (b: Uint8Array, at: number, e: number): number => nibble(b[at + (e % 16)]!, e >= 16);

/** Scale and minimum j of the twelve bytes that hold eight of each in six bits. */
function sixBits(b: Uint8Array, at: number, j: number): [number, number] {
  if (j < 4) return [b[at + j]! & 63, b[at + j + 4]! & 63];
  return [(b[at + j + 4]! & 15) + 16 * (b[at + j - 4]! >> 6), (b[at + j + 4]! >> 4) + 16 * (b[at + j]! >> 6)];
}

/** Element e of 256 whose low bits lie in 128 bytes, 64 elements in each 32. */
const low256 = (b: Uint8Array, at: number, e: number): number =>
  nibble(b[at + 32 * Math.floor(e / 64) + (e % 32)]!, e % 64 >= 32);

interface BlockReference {
  readonly size: number;
  readonly bytes: number;
  readonly value: (b: Uint8Array, at: number, e: number) => number;
}

const k = (b: Uint8Array, at: number, e: number, quant: number): number => {
  const [s, m] = sixBits(b, at + 4, Math.floor(e / 32));
  return half(b, at) * s * quant - half(b, at + 2) * m;
};

/** Block sizes and values by type. */
export const BLOCK_REFERENCES = {
  q8_0: { size: 32, bytes: 34, value: (b, at, e) => half(b, at) * signed(b[at + 2 + e]!) },
  q4_0: { size: 32, bytes: 18, value: (b, at, e) => half(b, at) * (low32(b, at + 2, e) - 8) },
  q4_1: { size: 32, bytes: 20, value: (b, at, e) => half(b, at) * low32(b, at + 4, e) + half(b, at + 2) },
  q5_0: {
    size: 32,
    bytes: 22,
    value: (b, at, e) =>
      half(b, at) * (low32(b, at + 6, e) + 16 * bit(b[at + 2 + Math.floor(e / 8)]!, e % 8) - 16),
  },
  q5_1: {
    size: 32,
    bytes: 24,
    value: (b, at, e) =>
      half(b, at) * (low32(b, at + 8, e) + 16 * bit(b[at + 4 + Math.floor(e / 8)]!, e % 8)) + half(b, at + 2),
  },
  q4_k: { size: 256, bytes: 144, value: (b, at, e) => k(b, at, e, low256(b, at + 16, e)) },
  q5_k: {
    size: 256,
    bytes: 176,
    value: (b, at, e) =>
      k(b, at, e, low256(b, at + 48, e) + 16 * bit(b[at + 16 + (e % 32)]!, Math.floor(e / 32))),
  },
  q6_k: {
    size: 256,
    bytes: 210,
    value: (b, at, e) => {
      const [n, l, group] = [Math.floor(e / 128), e % 32, Math.floor((e % 128) / 32)];
      const low = nibble(b[at + 64 * n + 32 * (group % 2) + l]!, group >= 2);
      const high = (b[at + 128 + 32 * n + l]! >> (2 * group)) & 3;
      return half(b, at + 208) * signed(b[at + 192 + Math.floor(e / 16)]!) * (low + 16 * high - 32);
    },
  },
} satisfies Record<string, BlockReference>;

export type BlockType = keyof typeof BLOCK_REFERENCES;

/** All elements of whole blocks, in float64. */
export function blockValues(type: BlockType, bytes: Uint8Array): Float64Array {
  const { size, bytes: stride, value } = BLOCK_REFERENCES[type];
  return Float64Array.from({ length: (bytes.length / stride) * size }, (_, i) =>
    value(bytes, Math.floor(i / size) * stride, i % size),
  );
}
