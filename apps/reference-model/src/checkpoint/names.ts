import { FormatError } from "@x/kernels";
import type { TensorData } from "@x/kernels/safetensors";
import type { Layout, Rows } from "../families/index.js";

/** Files beside weights and configuration: the tokenizer's, and what generation takes. */
export const BESIDE =
  /^(tokenizer.*|vocab|special_tokens_map|added_tokens|generation_config|chat_template)\.json$|^(merges|vocab)\.txt$|^chat_template\.jinja$|\.(model|tiktoken)$/;

/** Matrices of the last two axes with rows and columns exchanged. */
function transposed({ shape, data }: TensorData): TensorData {
  const [rows, columns] = shape.slice(-2) as [number, number];
  const out = new Float32Array(data.length);
  for (let from = 0; from < data.length; from += rows * columns)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) out[from + j * rows + i] = data[from + i * columns + j]!;
  return { shape: [...shape.slice(0, -2), columns, rows], data: out };
}

/** A checkpoint's tensor as the model has it; vectors are not transposed. */
export function arranged(tensor: TensorData, { transposed: swap, without }: Layout): TensorData {
  const { shape, data } = tensor;
  const own = without === undefined ? shape : shape.filter((n, axis) => axis !== without || n !== 1);
  return swap && own.length > 1 ? transposed({ shape: own, data }) : { shape: own, data };
}

/** The model's tensor as a checkpoint has it. */
export function unarranged(tensor: TensorData, { transposed: swap, without }: Layout): TensorData {
  const { shape, data } = swap && tensor.shape.length > 1 ? transposed(tensor) : tensor;
  if (without === undefined || shape.length === 1) return { shape, data };
  return { shape: [...shape.slice(0, without), 1, ...shape.slice(without)], data };
}

/** The axis of a tensor's rows: a matrix's outputs, and a vector's features; in a stack those of each expert. */
const rowsOf = (
  shape: readonly number[],
  axis = Math.max(0, shape.length - 2),
): { outer: number; count: number; width: number } => ({
  outer: shape.slice(0, axis).reduce((a, b) => a * b, 1),
  count: shape[axis] ?? 0,
  width: shape.slice(axis + 1).reduce((a, b) => a * b, 1),
});

/** Some rows of a tensor. @throws FormatError where the tensor does not have them */
export function part(
  file: string,
  name: string,
  { shape, data }: TensorData,
  rows: Rows,
  axis?: number,
): TensorData {
  const { outer, count, width } = rowsOf(shape, axis);
  const last = rows.reduce((most, [first, n]) => Math.max(most, first + n), 0);
  if (last > count)
    throw new FormatError(
      file,
      `tensor ${JSON.stringify(name)} has shape [${shape.join(", ")}]; the configuration needs ${last} rows`,
    );
  const kept = rows.reduce((n, [, more]) => n + more, 0);
  const out = new Float32Array(outer * kept * width);
  let at = 0;
  for (let o = 0; o < outer; o++)
    for (const [first, n] of rows) {
      const from = (o * count + first) * width;
      out.set(data.slice(from, from + n * width), at);
      at += n * width;
    }
  const where = axis ?? Math.max(0, shape.length - 2);
  return { shape: shape.map((n, i) => (i === where ? kept : n)), data: out };
}

/** A tensor of the rows of several: the inverse of `part`. */
export function joined(parts: readonly TensorData[], rows: readonly Rows[], axis?: number): TensorData {
  const { shape } = parts[0]!;
  const { outer, width } = rowsOf(shape, axis);
  const where = axis ?? Math.max(0, shape.length - 2);
  const count = parts.reduce((n, one) => n + one.shape[where]!, 0);
  const out = new Float32Array(outer * count * width);
  parts.forEach(({ data }, i) => {
    let at = 0;
    for (let o = 0; o < outer; o++)
      for (const [first, n] of rows[i]!) {
        out.set(data.slice(at, at + n * width), (o * count + first) * width);
        at += n * width;
      }
  });
  return { shape: shape.map((n, i) => (i === where ? count : n)), data: out };
}
