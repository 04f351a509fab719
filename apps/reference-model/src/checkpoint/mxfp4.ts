import { FormatError } from "@x/kernels";
import { quoted, type StoredTensor } from "./stored.js";

/** The numbers of a code of four bits: a sign, two bits of exponent and one of mantissa. */
const CODES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6] as const;
/** Numbers that share a scale, in 16 bytes. */
const BLOCK = 32;
const BLOCKS = "_blocks";

/**
 * Matrices in MXFP4 as gpt-oss publishes them, each stored as two tensors: `NAME_blocks` U8 [..., out, in / 32, 16], whose
 * low nibbles are the earlier numbers, and `NAME_scales` U8 [..., out, in / 32]; a number is code 2^(scale - 127).
 * OCP Microscaling Formats 1.0, section 5.3.
 */
export function withMxfp4(tensors: ReadonlyMap<string, StoredTensor>): ReadonlyMap<string, StoredTensor> {
  const out = new Map(tensors);
  for (const [name, blocks] of tensors) {
    const scales = name.endsWith(BLOCKS) ? tensors.get(`${name.slice(0, -BLOCKS.length)}_scales`) : undefined;
    if (!scales || blocks.type !== "U8" || scales.type !== "U8") continue;
    out.delete(scales.name);
    out.set(name, mxfp4(blocks, scales));
  }
  return out;
}

function mxfp4(blocks: StoredTensor, scales: StoredTensor): StoredTensor {
  const fits =
    blocks.shape.length === scales.shape.length + 1 &&
    blocks.shape.at(-1) === BLOCK / 2 &&
    scales.shape.every((n, axis) => n === blocks.shape[axis]);
  if (!fits)
    throw new FormatError(
      blocks.file,
      `${quoted(blocks.name)} has shape [${blocks.shape.join(", ")}] and ${quoted(scales.name)} [${scales.shape.join(", ")}]; the first must be that of the second with an axis of 16 bytes`,
    );
  const shape = [...scales.shape.slice(0, -1), scales.shape.at(-1)! * BLOCK];
  return {
    ...blocks,
    type: "MXFP4",
    shape,
    readable: true,
    refusal: "",
    bytes: undefined,
    floats: async () => {
      const [codes, exponents] = [await blocks.bytes!(), await scales.bytes!()];
      const numbers = new Float32Array(exponents.length * BLOCK);
      exponents.forEach((exponent, block) => {
        // The largest scale, 255, says that the block is not a number.
        const scale = exponent === 255 ? NaN : 2 ** (exponent - 127);
        for (let i = 0; i < BLOCK / 2; i++) {
          const byte = codes[(block * BLOCK) / 2 + i]!;
          numbers[block * BLOCK + 2 * i] = CODES[byte & 15]! * scale;
          numbers[block * BLOCK + 2 * i + 1] = CODES[byte >> 4]! * scale;
        }
      });
      return numbers;
    },
  };
}
