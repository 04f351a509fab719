import { gather, takeAlongLast, transpose, type RelativeModifier, type Tensor } from "@x/kernels";

/** A problem of relative terms: queries stand at offset + i, keys at j. */
export interface Grid {
  readonly batch: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly offset: number;
}

export const GRIDS: readonly Grid[] = [
  { batch: 1, heads: 1, queries: 1, keys: 1, offset: 0 },
  { batch: 2, heads: 3, queries: 4, keys: 4, offset: 0 },
  { batch: 1, heads: 2, queries: 3, keys: 7, offset: 4 },
  { batch: 1, heads: 2, queries: 5, keys: 3, offset: 0 },
];

/** What a relative modifier adds to the scores, as a matrix [batch, heads, queries, keys] ([heads, ..] for axes "h"). */
export function biasMatrix(
  modifier: RelativeModifier,
  { batch, heads, queries, keys, offset }: Grid,
): Tensor {
  const { axes, tensor, index } = modifier;
  const { gpu } = tensor;
  if (axes === "h") {
    const rows = Int32Array.from({ length: queries * keys }, (_, n) =>
      index.at(Math.floor(n / keys) + offset - (n % keys)),
    );
    return gather(tensor, gpu.tensor(rows, [queries, keys], "i32"), 1);
  }
  const [lines, columns] = axes === "bhq" ? [queries, keys] : [keys, queries];
  const rows = Int32Array.from({ length: batch * heads * lines * columns }, (_, n) => {
    const [line, column] = [Math.floor(n / columns) % lines, n % columns];
    return index.at(axes === "bhq" ? line + offset - column : column + offset - line);
  });
  const taken = takeAlongLast(tensor, gpu.tensor(rows, [batch, heads, lines, columns], "i32"));
  return axes === "bhq" ? taken : transpose(taken);
}

/** A matrix [batch, heads, queries, keys] from its entries, in float64. */
export function matrixOf(
  { batch, heads, queries, keys, offset }: Grid,
  entry: (b: number, h: number, i: number, j: number, distance: number) => number,
): Float64Array {
  const out = new Float64Array(batch * heads * queries * keys);
  let at = 0;
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < queries; i++)
        for (let j = 0; j < keys; j++) out[at++] = entry(b, h, i, j, i + offset - j);
  return out;
}

/** Sum of products of n neighbours. */
export function dot(a: ArrayLike<number>, at: number, b: ArrayLike<number>, bt: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[at + i]! * b[bt + i]!;
  return sum;
}
