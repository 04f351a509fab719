import { LOW, mayHide } from "./scores.wgsl.js";
import { accumulate, cell, lanesOf, ROWS, seq, type FlashVariant } from "./tile.wgsl.js";

/*
 * Sums over the columns of a tile in which some pairs are not seen. A fragment without bindings: an
 * invocation owns four neighbouring features of every piece, for all ROWS rows of the workgroup's tile.
 */

/**
 * `not_finite(x)`: NaN and infinities, by their bits: WGSL lets a compiler assume of arithmetic that there are none.
 * `weight_of(x)`: a cell of a tile as a factor, 0 where the pair is not seen.
 */
export const guards: string = /* wgsl */ `
fn weight_of(x: f32) -> f32 { return select(x, 0.0, x == ${LOW}); }
fn not_finite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }`;

/** Where every pair of a tile is seen there is nothing to hide. */
const partial = (v: FlashVariant): string =>
  v.terms.some(mayHide) ||
  v.mask ||
  v.keyMask ||
  v.docs ||
  v.positions ||
  (v.pattern !== undefined && !v.lists)
    ? "true"
    : "!whole";

/** A sum over a tile's columns: acc_{r,p} += sum_c tile[r, c] Y[c, columns of this lane]. */
interface SeenSum {
  readonly acc: string;
  readonly tile: string;
  /** The operand, of `limit` features in `pieces`, and the base of its row for a column. */
  readonly y: string;
  readonly yBase: (column: string) => string;
  readonly limit: string;
  readonly pieces: number;
  /** Where `result` takes what is not finite, row after row of pieces. */
  readonly spill: number;
}

/**
 * `accumulate` over a tile in which a pair that is not seen has LOW: what the operand has there must not be read into
 * a product, for 0 times a NaN is a NaN. So the products take 0 for what is not finite, and the rows that do see it have
 * their products with it added to `result` afterwards, which is rare.
 */
export function accumulateSeen(v: FlashVariant, sum: SeenSum): string {
  const { acc, tile, y, yBase, limit, pieces, spill } = sum;
  const loaded = /* wgsl */ `if (${partial(v)}) {
        ${seq(pieces)
          .map(
            (p) =>
              `let bad${p} = not_finite(w${p}); unclean = unclean || any(bad${p}); w${p} = select(w${p}, vec4f(), bad${p});`,
          )
          .join("\n        ")}
      }`;
  return /* wgsl */ `{
    var unclean = false;
    ${accumulate(v, acc, tile, y, yBase, pieces, limit, { weight: (c) => `weight_of(${c})`, loaded })}
    if (unclean) {
      for (var c = 0u; c < 4u * used; c++) {
        let base = ${yBase("c0 + c")};
        for (var n = 0u; n < ${pieces}u; n++) {
          let w = ${y}4(base, min(lane * 4u + n * ${4 * lanesOf(v)}u, ${limit} - 1u));
          for (var r = 0u; r < ${ROWS}u; r++) {
            let a = ${cell(v, tile)};
            if (a != ${LOW}) { result[${spill}u + r * ${pieces}u + n] += select(vec4f(), a * w, not_finite(w)); }
          }
        }
      }
    }
    }`;
}
