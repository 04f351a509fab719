/** What a tensor of a GGUF file is made of one of a Hugging Face folder, and back. */
export type Change =
  /** Rows of each head are in another order: GGUF's 2i and 2i + 1 are i and i + d/2. */
  | { readonly kind: "heads"; readonly count: "num_attention_heads" | "num_key_value_heads" }
  /** Each number is another one. */
  | {
      readonly kind: "numbers";
      readonly read: (gguf: number) => number;
      readonly write: (own: number) => number;
    }
  /** The matrix is transposed. */
  | { readonly kind: "transposed" }
  /** The folder's shape has an axis of length one in the middle: [a, 1, b]. */
  | { readonly kind: "squeezed" }
  /** The folder holds a matrix for each expert: the rule's name there has `{e}`. */
  | { readonly kind: "experts" };

/** Norms that are multiplied by 1 + w: GGUF holds the sum. */
export const ONE_PLUS: Change = { kind: "numbers", read: (x) => x - 1, write: (x) => x + 1 };
/** Mamba's decay: GGUF holds -exp(A_log). */
export const MINUS_EXP: Change = { kind: "numbers", read: (x) => Math.log(-x), write: (x) => -Math.exp(x) };
export const TRANSPOSED: Change = { kind: "transposed" };
export const SQUEEZED: Change = { kind: "squeezed" };
export const EXPERTS: Change = { kind: "experts" };
export const QUERY_HEADS: Change = { kind: "heads", count: "num_attention_heads" };
export const KEY_HEADS: Change = { kind: "heads", count: "num_key_value_heads" };

/**
 * Rows of a head from neighbouring pairs to halves (`read`) or back: row `i` of the result is row `order[i]` of what is
 * given.
 */
export function headOrder(rows: number, heads: number, direction: "read" | "write"): number[] {
  const size = rows / heads;
  const half = size / 2;
  return Array.from({ length: rows }, (_, row) => {
    const [first, at] = [row - (row % size), row % size];
    const from =
      direction === "read" ? (at < half ? 2 * at : 2 * (at - half) + 1) : (at & 1 ? half : 0) + (at >> 1);
    return first + from;
  });
}

/** The rows of `data` in another order; a row is `data.length / order.length` elements. */
export function inOrder<T extends Float32Array | Uint8Array>(data: T, order: readonly number[]): T {
  const row = data.length / order.length;
  const out = data.slice() as T;
  for (const [to, from] of order.entries()) out.set(data.subarray(from * row, (from + 1) * row), to * row);
  return out;
}

/** The transpose [columns, rows] of a matrix [rows, columns]. */
export function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c]!;
  return out;
}
