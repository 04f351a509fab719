import { exprFunction } from "../../expr/wgsl.js";
import { each, vec4f } from "./text.js";
import type { MatmulVariant } from "./variant.js";

/*
 * The end of every form of a matrix product: how four neighbouring outputs are scaled, activated and stored.
 * A fragment: the form that includes it says what an invocation owns, and calls `store` once for each row of
 * four outputs.
 *
 * Bindings: out [batch, M, N]; residual, of the shape of out; bias [N], or [groups, N] for grouped rows; f32
 * or f16, read and written as vec4 where N is a multiple of four.
 */

/** `store`: activation(alpha value + bias) + residual of four neighbouring outputs of one row, kept inside the matrix. */
export function storeFunction(v: MatmulVariant): string {
  const at = (name: string, index: string): string =>
    v.vecOut ? `vec4f(${name}[(${index}) / 4u])` : vec4f((i) => `f32(${name}[${index} + min(${i}u, last)])`);
  return /* wgsl */ `
${v.activation ? exprFunction("activate", ["x"], v.activation, "vec4f") : ""}
fn store(z: u32, row: u32, col: u32, biasBase: u32, value: vec4f) {
  if (row >= params.M || col >= params.N) { return; }
  let index = (z * params.M + row) * params.N + col;
  let last = params.N - 1u - col;
  var y = value * params.alpha;
  ${v.bias === undefined ? "" : `y += ${at("bias", "biasBase + col")};`}
  ${v.activation ? "y = activate(y);" : ""}
  ${v.residual === undefined ? "" : `y += ${at("residual", "index")};`}
  ${
    v.vecOut
      ? `out[index / 4u] = vec4<${v.out}>(y);`
      : each(4, (i) => `if (col + ${i}u < params.N) { out[index + ${i}u] = ${v.out}(y[${i}]); }`)
  }
}`;
}
