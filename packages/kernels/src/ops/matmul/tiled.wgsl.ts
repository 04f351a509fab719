import { storeFunction } from "./epilogue.wgsl.js";
import { loads } from "./loads.wgsl.js";
import { batchOffsets, placement } from "./placement.wgsl.js";
import { each } from "./text.js";
import type { MatmulVariant } from "./variant.js";

/** Rows and columns of a workgroup's tile: 64 threads hold 8 x 8 outputs each. */
export const TILE = 64;
/** Steps along k that are staged at once. */
const STEP = 16;

/** Copy a tile of an operand, `STEP` along k, to workgroup memory; zeros past its edges. */
function stage(v: MatmulVariant, name: "a" | "b"): string {
  const [extent, end, first, alongK] =
    name === "a"
      ? ["params.M", "row_end", "row0", !v.transposeA]
      : ["params.N", "params.N", "col0", v.transposeB];
  // Neighbouring threads read neighbouring memory: along k when the operand is stored [extent, K].
  const [e, k] = alongK ? [`i / ${STEP}u`, `i % ${STEP}u`] : [`i % ${TILE}u`, `i / ${TILE}u`];
  const index = alongK ? `(${first} + e) * params.K + k0 + k` : `(k0 + k) * ${extent} + ${first} + e`;
  return /* wgsl */ `
    for (var i = thread; i < ${TILE * STEP}u; i += 64u) {
      let e = ${e};
      let k = ${k};
      var value = 0.0;
      if (${first} + e < ${end} && k0 + k < k_end) { value = ${name}_at(${name}Base + ${index}); }
      tile_${name}[k * ${TILE}u + e] = value;
    }`;
}

/** Both operands staged in workgroup memory; right on any adapter. */
export function tiledMatmul(v: MatmulVariant): string {
  const multiply = (i: number): string =>
    `{ let x = vec4f(tile_a[k * ${TILE}u + r + ${i}u]); left${i} = fma(x, b0, left${i}); right${i} = fma(x, b1, right${i}); }`;
  return /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
var<private> rows: array<vec4f, 16>;
var<workgroup> tile_a: array<f32, ${TILE * STEP}>;
var<workgroup> tile_b: array<f32, ${TILE * STEP}>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  ${placement(v, TILE)}
  let col0 = group.y * ${TILE}u;
  let r = (thread / 8u) * 8u;
  let c = (thread % 8u) * 4u;
  ${each(8, (i) => `var left${i} = vec4f(); var right${i} = vec4f();`)}
  for (var k0 = k_first; k0 < k_end; k0 += ${STEP}u) {
    ${stage(v, "a")}
    ${stage(v, "b")}
    workgroupBarrier();
    for (var k = 0u; k < ${STEP}u; k++) {
      let at = k * ${TILE}u + c;
      let b0 = vec4f(tile_b[at], tile_b[at + 1u], tile_b[at + 2u], tile_b[at + 3u]);
      let b1 = vec4f(tile_b[at + 32u], tile_b[at + 33u], tile_b[at + 34u], tile_b[at + 35u]);
      ${each(8, multiply)}
    }
    workgroupBarrier();
  }
  ${each(8, (i) => `rows[${2 * i}] = left${i}; rows[${2 * i + 1}] = right${i};`)}
  for (var i = 0u; i < 16u; i++) {
    let row = row0 + r + i / 2u;
    if (row < row_end) { store(z, row, col0 + c + (i % 2u) * 32u, biasBase, rows[i]); }
  }
}`;
}
