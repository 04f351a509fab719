import { fromHalfBits } from "../base/dtype.js";
import { planeRanges, quantForm, storedBytes, type PackedType, type QuantForm } from "./forms.js";

/** The bytes of each plane of a buffer. */
interface Planes {
  readonly quants: Uint8Array;
  readonly high: Uint8Array;
  readonly scales: Uint8Array;
}

function viewPlanes(buffer: Uint8Array, dtype: PackedType, size: number): Planes {
  const find = (name: string): Uint8Array => {
    const range = planeRanges(dtype, size).find(({ plane }) => plane.name === name);
    return range ? buffer.subarray(range.offset, range.offset + range.length) : new Uint8Array(0);
  };
  return { quants: find(""), high: find("high"), scales: find("scales") };
}

function copy(from: Uint8Array, at: number, to: Uint8Array, start: number, count: number): void {
  for (let i = 0; i < count; i++) to[start + i] = from[at + i]!;
}

/*
 * Within a buffer all forms have one order. Element e of a group of 32 has its low four bits in byte e % 16 of the
 * group's sixteen (the upper half of the byte for e >= 16), and the higher bits beside those of its neighbours, in
 * rising order. That is the order of the blocks of 32 in a file.
 */

/** Blocks of 32 elements: scales, high bits, quants. */
function packSmall(form: QuantForm, file: Uint8Array, to: Planes): void {
  const scale = form.scales === "pair" ? 4 : 2;
  const high = form.bits === 5 ? 4 : 0;
  const quants = form.bits === 8 ? 32 : 16;
  const blocks = file.length / form.fileBytes;
  for (let i = 0, at = 0; i < blocks; i++) {
    copy(file, at, to.scales, i * scale, scale);
    copy(file, at + scale, to.high, i * high, high);
    copy(file, at + scale + high, to.quants, i * quants, quants);
    at += form.fileBytes;
  }
}

/** Scales and minima of six bits, eight each in twelve bytes, as bytes. */
function unpackScales(file: Uint8Array, at: number, to: Uint8Array, start: number): void {
  for (let j = 0; j < 8; j++) {
    const [a, b, low] = [file[at + j]!, file[at + j + 4]!, file[at + j - 4]!];
    to[start + j] = j < 4 ? a & 63 : (b & 15) | ((low >> 6) << 4);
    to[start + 8 + j] = j < 4 ? b & 63 : (b >> 4) | ((a >> 6) << 4);
  }
}

/** Two groups of 32 that share 32 bytes, one in the low halves of the bytes and one in the high halves. */
function splitPair(file: Uint8Array, at: number, to: Uint8Array, first: number, second: number): void {
  for (let l = 0; l < 16; l++) {
    const [a, b] = [file[at + l]!, file[at + 16 + l]!];
    to[first + l] = (a & 15) | ((b & 15) << 4);
    to[second + l] = (a >> 4) | (b & 0xf0);
  }
}

/** q4_k and q5_k: d, dmin, twelve bytes of scales, (32 bytes of high bits,) 128 bytes of quants. */
function packK(form: QuantForm, file: Uint8Array, to: Planes): void {
  const blocks = file.length / form.fileBytes;
  const high = form.bits === 5 ? 32 : 0;
  for (let i = 0; i < blocks; i++) {
    const at = i * form.fileBytes;
    copy(file, at, to.scales, 20 * i, 4);
    unpackScales(file, at + 4, to.scales, 20 * i + 4);
    for (let j = 0; j < 4; j++) {
      const first = 128 * i + 32 * j;
      splitPair(file, at + 16 + high + 32 * j, to.quants, first, first + 16);
    }
    // Bit j of high byte l belongs to element l of group j.
    for (let j = 0; j < high / 4; j++)
      for (let l = 0; l < 32; l++)
        to.high[32 * i + 4 * j + (l >> 3)]! |= ((file[at + 16 + l]! >> j) & 1) << (l & 7);
  }
}

/** q6_k: 128 bytes of low bits, 64 of high bits, sixteen scales, d. */
function packK6(form: QuantForm, file: Uint8Array, to: Planes): void {
  const blocks = file.length / form.fileBytes;
  for (let i = 0; i < blocks; i++) {
    const at = i * form.fileBytes;
    copy(file, at + 208, to.scales, 20 * i, 2);
    copy(file, at + 192, to.scales, 20 * i + 4, 16);
    for (let half = 0; half < 2; half++) {
      const first = 128 * i + 64 * half;
      splitPair(file, at + 64 * half, to.quants, first, first + 32);
      splitPair(file, at + 64 * half + 32, to.quants, first + 16, first + 48);
      // Two bits for each of four groups lie in a byte.
      for (let j = 0; j < 4; j++)
        for (let l = 0; l < 32; l++)
          to.high[64 * i + 32 * half + 8 * j + (l >> 2)]! |=
            ((file[at + 128 + 32 * half + l]! >> (2 * j)) & 3) << (2 * (l & 3));
    }
  }
}

/** The bytes of a buffer for `size` elements, from those of a file; their number was checked. */
export function pack(dtype: PackedType, file: Uint8Array, size: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(Math.ceil(storedBytes(dtype, size) / 4) * 4);
  const form = quantForm(dtype);
  if (!form) out.set(file.subarray(0, 2 * size));
  else {
    const to = viewPlanes(out, dtype, size);
    if (form.scales === "bytes") packK(form, file, to);
    else if (form.scales === "signed") packK6(form, file, to);
    else packSmall(form, file, to);
  }
  return out;
}

const halfAt = (bytes: Uint8Array, at: number): number => fromHalfBits(bytes[at]! | (bytes[at + 1]! << 8));

/** Scale and minimum of piece i of sixteen elements. */
function scaleAt(form: QuantForm, scales: Uint8Array, i: number): readonly [number, number] {
  switch (form.scales) {
    case "half":
      return [halfAt(scales, 2 * (i >> 1)), 0];
    case "pair":
      return [halfAt(scales, 4 * (i >> 1)), halfAt(scales, 4 * (i >> 1) + 2)];
    case "bytes": {
      const at = 20 * (i >> 4);
      const j = (i >> 1) & 7;
      return [halfAt(scales, at) * scales[at + 4 + j]!, -halfAt(scales, at + 2) * scales[at + 12 + j]!];
    }
    case "signed": {
      const at = 20 * (i >> 4);
      return [halfAt(scales, at) * ((scales[at + 4 + (i & 15)]! << 24) >> 24), 0];
    }
  }
}

function quantAt(form: QuantForm, { quants, high }: Planes, i: number): number {
  if (form.bits === 8) return (quants[i]! << 24) >> 24;
  const e = i & 31;
  const low = (quants[(i >> 5) * 16 + (e & 15)]! >> (e < 16 ? 0 : 4)) & 15;
  if (form.bits === 4) return low;
  const [per, mask] = form.bits === 5 ? [8, 1] : [4, 3];
  return low | (((high[Math.floor(i / per)]! >> ((i % per) * (form.bits - 4))) & mask) << 4);
}

/** The numbers that a buffer's bytes stand for. */
export function unpack(dtype: PackedType, bytes: Uint8Array, size: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(size);
  const form = quantForm(dtype);
  if (!form) {
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < size; i++) {
      const half = bytes[2 * i]! | (bytes[2 * i + 1]! << 8);
      if (dtype === "bf16") bits[i] = half << 16;
      else out[i] = fromHalfBits(half);
    }
    return out;
  }
  const planes = viewPlanes(bytes, dtype, size);
  for (let i = 0; i < size; i += 16) {
    const [scale, minimum] = scaleAt(form, planes.scales, i / 16);
    for (let j = i; j < i + 16; j++) out[j] = scale * (quantAt(form, planes, j) - form.offset) + minimum;
  }
  return out;
}
