import { FormatError } from "@x/kernels";
import { dequantise } from "./gguf/dequantise.js";
import { TENSOR_TYPES, type TensorType } from "./gguf/tensor_types.js";
import { arranged } from "./names.js";
import { quoted, type StoredTensor } from "./stored.js";

/** The blocks that a folder may hold, by the end of a tensor's name. */
const ENDINGS: ReadonlyMap<string, TensorType> = new Map(
  [...TENSOR_TYPES.values()]
    .filter(({ name }) => /^Q\d_[01K]$/.test(name))
    .map((type) => [type.name.toLowerCase(), type]),
);
const ENDING = /^(.+)\.(q\d_[01k])(_transposed)?$/;
const TRANSPOSED = "_transposed";

/** A quantised tensor's name in a folder: of a matrix that the family's folders hold as [in, out], the transpose lies there. */
export const blocksName = (name: string, type: string, transposed: boolean): string =>
  `${name}.${type.toLowerCase()}${transposed ? TRANSPOSED : ""}`;

/**
 * Matrices in the blocks of GGUF inside a folder: `NAME.q8_0` U8 [..., out, in / 32 * 34] holds NAME [..., out, in], and
 * `NAME.q8_0_transposed` U8 [..., out, in / 32 * 34] holds NAME [..., in, out].
 */
export function withBlocks(tensors: ReadonlyMap<string, StoredTensor>): ReadonlyMap<string, StoredTensor> {
  const out = new Map(tensors);
  for (const [name, tensor] of tensors) {
    const [, own, ending, transposed] = ENDING.exec(name) ?? [];
    const type = ENDINGS.get(ending ?? "");
    if (own === undefined || !type || tensor.type !== "U8") continue;
    if (out.has(own)) throw new FormatError(tensor.file, `${quoted(own)} is there as numbers and as blocks`);
    out.delete(name);
    out.set(own, blocks(tensor, type, transposed !== undefined));
  }
  return out;
}

function blocks(tensor: StoredTensor, type: TensorType, transposed: boolean): StoredTensor {
  const width = tensor.shape.at(-1) ?? 0;
  if (tensor.shape.length < 2 || width % type.bytes !== 0)
    throw new FormatError(
      tensor.file,
      `${quoted(tensor.name)} has shape [${tensor.shape.join(", ")}]; a row of ${type.name} is a whole number of blocks of ${type.bytes} bytes`,
    );
  const shape = [...tensor.shape.slice(0, -1), (width / type.bytes) * type.values];
  const bytes = tensor.bytes!;
  const numbers = async (): Promise<Float32Array> =>
    dequantise(tensor.file, tensor.name, type, await bytes());
  const shared = { ...tensor, type: type.name, readable: true, refusal: "" };
  if (!transposed) return { ...shared, shape, floats: numbers, bytes };
  const [rows, columns] = shape.slice(-2) as [number, number];
  return {
    ...shared,
    shape: [...shape.slice(0, -2), columns, rows],
    floats: async () => arranged({ data: await numbers(), shape }, { transposed: true }).data as Float32Array,
    bytes: undefined,
    outputsFirst: { shape, bytes },
  };
}
