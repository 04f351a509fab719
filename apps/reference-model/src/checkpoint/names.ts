import { FormatError } from "@x/kernels";
import type { Layout, Rows } from "../families/index.js";

/** Files beside weights and configuration: the tokenizer's, and what generation takes. */
export const BESIDE =
  /^(tokenizer.*|vocab|special_tokens_map|added_tokens|generation_config|chat_template)\.json$|^(merges|vocab)\.txt$|^chat_template\.jinja$|\.(model|tiktoken)$/;

/** The numbers of a tensor, or what a file stores of them: halves as 16 bits each, rows of quants as bytes. */
export interface Laid {
  readonly shape: readonly number[];
  readonly data: Float32Array | Uint16Array | Uint8Array;
}

/**
 * Tensors of the model that only products and lookups read. The latent's matrix of MLA is not among them: its rows are
 * multiplied into queries and outputs by head.
 */
const MULTIPLIED =
  /(?<!kv_b_proj)(?:_proj|_proj_\w+|\.c_fc|\.linear_\w+|\.(?:key|value|receptance|output)|embed_tokens|lm_head)\.weight$|\.experts\.(?:gate|up|down)_proj$/;

/** Whether only products and lookups read a tensor of the model, so that it may stay as it is stored. */
export const isMultiplied = (name: string): boolean => MULTIPLIED.test(name);

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** An empty array of the same kind. */
function like(data: Laid["data"], length: number): Laid["data"] {
  if (data instanceof Float32Array) return new Float32Array(length);
  return data instanceof Uint16Array ? new Uint16Array(length) : new Uint8Array(length);
}

/** Matrices of the last two axes with rows and columns exchanged. */
function transposed({ shape, data }: Laid): Laid {
  const [rows, columns] = shape.slice(-2) as [number, number];
  const out = like(data, data.length);
  for (let from = 0; from < data.length; from += rows * columns)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) out[from + j * rows + i] = data[from + i * columns + j]!;
  return { shape: [...shape.slice(0, -2), columns, rows], data: out };
}

/** A checkpoint's tensor as the model has it; vectors are not transposed. */
export function arranged(tensor: Laid, { transposed: swap, without }: Layout): Laid {
  const { shape, data } = tensor;
  const own = without === undefined ? shape : shape.filter((n, axis) => axis !== without || n !== 1);
  return swap && own.length > 1 ? transposed({ shape: own, data }) : { shape: own, data };
}

/** The model's tensor as a checkpoint has it. */
export function unarranged(tensor: Laid, { transposed: swap, without }: Layout): Laid {
  const { shape, data } = swap && tensor.shape.length > 1 ? transposed(tensor) : tensor;
  if (without === undefined || shape.length === 1) return { shape, data };
  return { shape: [...shape.slice(0, without), 1, ...shape.slice(without)], data };
}

/** The axis of a tensor's rows: a matrix's outputs, and a vector's features; in a stack those of each expert. */
const axisOf = (shape: readonly number[], axis = Math.max(0, shape.length - 2)): number => axis;

/** Some rows of a tensor. @throws FormatError where the tensor does not have them */
export function part(file: string, name: string, { shape, data }: Laid, rows: Rows, axis?: number): Laid {
  const along = axisOf(shape, axis);
  const [outer, count] = [product(shape.slice(0, along)), shape[along] ?? 0];
  const last = rows.reduce((most, [first, n]) => Math.max(most, first + n), 0);
  if (last > count)
    throw new FormatError(
      file,
      `tensor ${JSON.stringify(name)} has shape [${shape.join(", ")}]; the configuration needs ${last} rows`,
    );
  const width = count === 0 ? 0 : data.length / (outer * count);
  const kept = rows.reduce((n, [, more]) => n + more, 0);
  const out = like(data, outer * kept * width);
  let at = 0;
  for (let o = 0; o < outer; o++)
    for (const [first, n] of rows) {
      const from = (o * count + first) * width;
      out.set(data.subarray(from, from + n * width), at);
      at += n * width;
    }
  return { shape: shape.map((n, i) => (i === along ? kept : n)), data: out };
}

/** A tensor of the rows of several: the inverse of `part`. */
export function joined(parts: readonly Laid[], rows: readonly Rows[], axis?: number): Laid {
  const { shape } = parts[0]!;
  const along = axisOf(shape, axis);
  const outer = product(shape.slice(0, along));
  const count = parts.reduce((n, one) => n + one.shape[along]!, 0);
  const width = product(shape.slice(along + 1));
  const out = like(parts[0]!.data, outer * count * width);
  parts.forEach(({ data }, i) => {
    let at = 0;
    for (let o = 0; o < outer; o++)
      for (const [first, n] of rows[i]!) {
        out.set(data.subarray(at, at + n * width), (o * count + first) * width);
        at += n * width;
      }
  });
  return { shape: shape.map((n, i) => (i === along ? count : n)), data: out };
}

/** Tensors of one shape as a stack. */
export function together(parts: readonly Laid[]): Laid {
  const { data, shape } = parts[0]!;
  const out = like(data, data.length * parts.length);
  parts.forEach((one, i) => {
    out.set(one.data, i * data.length);
  });
  return { shape: [parts.length, ...shape], data: out };
}
