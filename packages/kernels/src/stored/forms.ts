import { ConfigError, ShapeError } from "../base/errors.js";
import type { DType, StoredType } from "../base/dtype.js";
import { showShape, sizeOf } from "../base/validate.js";

/** Types of which the elements lie in words that no kernel computes with: half floats, and blocks of quants. */
export type PackedType = StoredType | "f16";

/** How the scales of blocks lie in their plane. */
export type ScaleLayout =
  /** A half d for each 32 elements: d (q - offset). */
  | "half"
  /** Halves d, m for each 32 elements: d q + m. */
  | "pair"
  /** For each 256 elements halves d, dmin, then eight bytes s and eight bytes m: d s q - dmin m of each 32. */
  | "bytes"
  /** For each 256 elements a half d in a word, then sixteen signed bytes s: d s (q - offset) of each 16. */
  | "signed";

/** A quantised form: value = scale (quant - offset) + minimum, with a scale and a minimum for a piece of a block. */
export interface QuantForm {
  /** Neighbours of the last axis that a block of a file holds, and its bytes there. */
  readonly block: 32 | 256;
  readonly fileBytes: number;
  /** Bits of a quant; those of eight bits are signed bytes. */
  readonly bits: 4 | 5 | 6 | 8;
  readonly offset: number;
  readonly scales: ScaleLayout;
}

/** Quantised forms by name, as the files of GGUF define them. */
export const QUANT_FORMS: Readonly<Record<Exclude<StoredType, "bf16">, QuantForm>> = {
  q8_0: { block: 32, fileBytes: 34, bits: 8, offset: 0, scales: "half" },
  q4_0: { block: 32, fileBytes: 18, bits: 4, offset: 8, scales: "half" },
  q4_1: { block: 32, fileBytes: 20, bits: 4, offset: 0, scales: "pair" },
  q5_0: { block: 32, fileBytes: 22, bits: 5, offset: 16, scales: "half" },
  q5_1: { block: 32, fileBytes: 24, bits: 5, offset: 0, scales: "pair" },
  q4_k: { block: 256, fileBytes: 144, bits: 4, offset: 0, scales: "bytes" },
  q5_k: { block: 256, fileBytes: 176, bits: 5, offset: 0, scales: "bytes" },
  q6_k: { block: 256, fileBytes: 210, bits: 6, offset: 32, scales: "signed" },
};

/** The quantised form of a name; undefined for any other dtype. */
export const quantForm = (dtype: DType): QuantForm | undefined =>
  Object.hasOwn(QUANT_FORMS, dtype) ? QUANT_FORMS[dtype as keyof typeof QUANT_FORMS] : undefined;

/** Elements of the last axis that belong together in a file: 1, 32 or 256. */
export const blockOf = (dtype: DType): number => quantForm(dtype)?.block ?? 1;

/** A part of a stored tensor's buffer in which the same component of all blocks lies: quants, high bits or scales. */
export interface Plane {
  readonly name: "" | "high" | "scales";
  /** Bytes for 256 elements. */
  readonly rate: number;
}

const SCALE_RATE: Readonly<Record<ScaleLayout, number>> = { half: 16, pair: 32, bytes: 20, signed: 20 };

/** The planes of a type, in the order of the buffer. */
export function planesOf(dtype: PackedType): readonly Plane[] {
  const form = quantForm(dtype);
  if (!form) return [{ name: "", rate: 512 }];
  const { bits, scales } = form;
  return [
    { name: "", rate: bits === 8 ? 256 : 128 },
    ...(bits === 5 || bits === 6 ? [{ name: "high" as const, rate: 32 * (bits - 4) }] : []),
    { name: "scales", rate: SCALE_RATE[scales] },
  ];
}

/** Planes begin at multiples of this, since a binding does. */
const ALIGNMENT = 256;

/** Where each plane of `size` elements lies, in bytes. */
export function planeRanges(
  dtype: PackedType,
  size: number,
): { readonly plane: Plane; readonly offset: number; readonly length: number }[] {
  let end = 0;
  return planesOf(dtype).map((plane) => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    const length = Math.ceil((size * plane.rate) / 256);
    end = offset + length;
    return { plane, offset, length };
  });
}

/** Bytes of a buffer that holds so many elements of a dtype. */
export function storedBytes(dtype: PackedType, size: number): number {
  const last = planeRanges(dtype, size).at(-1)!;
  return last.offset + last.length;
}

/** Bytes of a shape in a file. */
export function fileBytes(dtype: PackedType, shape: readonly number[]): number {
  const form = quantForm(dtype);
  return form ? (sizeOf(shape) / form.block) * form.fileBytes : 2 * sizeOf(shape);
}

/** Check that the last axis of a shape consists of whole blocks. @throws ShapeError */
export function checkBlocks(who: string, dtype: DType, shape: readonly number[]): void {
  const block = blockOf(dtype);
  if (block > 1 && (shape.length === 0 || shape.at(-1)! % block !== 0))
    throw new ShapeError(
      who,
      `shape is ${showShape(shape)}; the last axis of ${dtype} must be a multiple of ${block}, the elements of a block`,
    );
}

/** @throws ConfigError */
export function expectQuantForm(who: string, type: DType): QuantForm {
  const form = quantForm(type);
  if (!form)
    throw new ConfigError(
      who,
      `type is ${JSON.stringify(type)}; it must be one of ${Object.keys(QUANT_FORMS).join(", ")}`,
    );
  return form;
}
