import { ConfigError } from "../base/errors.js";
import type { Expr } from "../expr/expr.js";
import type { Gpu } from "../device/gpu.js";
import type { Tensor } from "../tensor/tensor.js";

/**
 * What an attention score may become besides scale q.k: the contract between positional encodings, which make
 * modifiers, and the attention engine, which fuses them into its kernels, forward and backward.
 */
export type ScoreModifier = PointwiseModifier | RelativeModifier;

/**
 * score' = f(score, distance, slope): any expression of the score, the distance (query position - key position) and
 * a fixed number per head. Soft caps and ALiBi are of this kind.
 */
export interface PointwiseModifier {
  readonly kind: "pointwise";
  readonly name: string;
  /** Expression of the inputs "score", "distance" and, with `slopes`, "slope". */
  readonly expr: Expr;
  /** f32 [heads]. */
  readonly slopes?: Tensor | undefined;
}

/** Axes of a relative term before its last: head; batch, head, query; or batch, head, key. */
export type RelativeAxes = "h" | "bhq" | "bhk";

/**
 * score' = score + tensor[.., index(distance)]: a term that depends on the distance through a table of rows, and on
 * the head, the query or the key. Gradients flow to `tensor`. T5, Shaw, Transformer-XL and DeBERTa are of this kind.
 */
export interface RelativeModifier {
  readonly kind: "relative";
  readonly name: string;
  readonly axes: RelativeAxes;
  /** f32 [heads, n], [batch, heads, queries, n] or [batch, heads, keys, n]. */
  readonly tensor: Tensor;
  readonly index: RelativeIndex;
}

/** A map from distances to rows 0..n-1, computed on the host in double precision and kept on the device. */
export class RelativeIndex {
  readonly rows: number;
  readonly #row: (distance: number) => number;
  #table:
    { readonly gpu: Gpu; readonly tensor: Tensor; readonly min: number; readonly max: number } | undefined;

  constructor(rows: number, row: (distance: number) => number) {
    this.rows = rows;
    this.#row = row;
  }

  /** Row of a distance. @throws ConfigError if it lies outside 0..rows-1. */
  at(distance: number): number {
    const row = this.#row(distance);
    if (!Number.isInteger(row) || row < 0 || row >= this.rows) {
      throw new ConfigError(
        "RelativeIndex",
        `distance ${distance} has row ${row}; it must be an integer in 0..${this.rows - 1}`,
      );
    }
    return row;
  }

  /** i32 table over min..max (or a wider range, which starts at the returned `min`). */
  table(gpu: Gpu, min: number, max: number): { tensor: Tensor; min: number } {
    const held = this.#table;
    if (held?.gpu === gpu && !held.tensor.disposed && held.min <= min && held.max >= max) return held;
    // Grow by half, so that decoding does not build a table per token.
    const grow = Math.ceil((max - min) / 2);
    const [from, to] = [Math.min(min, held?.min ?? min), Math.max(max + grow, held?.max ?? max)];
    const rows = Int32Array.from({ length: to - from + 1 }, (_, i) => this.at(from + i));
    held?.tensor.dispose();
    this.#table = { gpu, tensor: gpu.keep(gpu.tensor(rows, [rows.length], "i32")), min: from, max: to };
    return this.#table;
  }

  /** Free the table. */
  dispose(): void {
    this.#table?.tensor.dispose();
    this.#table = undefined;
  }
}
