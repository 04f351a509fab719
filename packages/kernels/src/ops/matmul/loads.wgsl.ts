import { storedLoads } from "../../stored/loads.wgsl.js";
import { each, vec4f } from "./text.js";
import type { MatmulVariant } from "./variant.js";

/*
 * Loads of the operands of a matrix product. A fragment: the form that includes it says what an invocation
 * owns.
 *
 * Bindings: a [batch, M, K], or [batch, K, M] transposed; b [batch, K, N], or [batch, N, K] transposed; f32
 * or f16, read as vec4 where the last axis is a multiple of four. A stored b has the bindings of `stored/loads.wgsl.ts`.
 * Values become f32.
 */

/** Functions that load an element, or four neighbours, of an operand as float32. */
export function loads(v: MatmulVariant): string {
  const lines = [
    `fn a_at(index: u32) -> f32 { return f32(${v.vecA ? "a[index / 4u][index % 4u]" : "a[index]"}); }`,
  ];
  if (v.vecA) lines.push("fn a4_at(index: u32) -> vec4f { return vec4f(a[index / 4u]); }");
  if (v.packed !== undefined) lines.push(storedLoads(v.packed, "b", v.vecB));
  else
    lines.push(
      `fn b_at(index: u32) -> f32 { return f32(${v.vecB ? "b[index / 4u][index % 4u]" : "b[index]"}); }`,
    );
  if (v.vecB && v.packed === undefined)
    lines.push("fn b4_at(index: u32) -> vec4f { return vec4f(b[index / 4u]); }");
  return lines.join("\n");
}

/** `c0` to `c3`: four neighbouring columns of b from `col`; past the edge the last ones, whose results are not stored. */
export const columns = (v: MatmulVariant): string =>
  each(4, (i) =>
    v.vecB && !v.transposeB
      ? `let c${i} = min(col + ${i}u, params.N - 4u + ${i}u);`
      : `let c${i} = min(col + ${i}u, params.N - 1u);`,
  );

/** Row k of b in the four columns, a vec4f. */
export function rowOfB(v: MatmulVariant, k: string): string {
  if (v.transposeB) return vec4f((i) => `b_at(bBase + c${i} * params.K + ${k})`);
  if (v.vecB) return `b4_at(bBase + (${k}) * params.N + c0)`;
  return vec4f((i) => `b_at(bBase + (${k}) * params.N + c${i})`);
}
