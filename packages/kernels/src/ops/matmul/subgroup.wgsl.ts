import { storeFunction } from "./epilogue.wgsl.js";
import { columns, loads, rowOfB } from "./loads.wgsl.js";
import { batchOffsets, placement } from "./placement.wgsl.js";
import { each } from "./text.js";
import type { MatmulVariant } from "./variant.js";

/*
 * A matrix product by subgroups. A workgroup is one subgroup of `lanes` invocations and owns a tile of `rows`
 * x (4 * lanes) outputs; an invocation owns four neighbouring columns of all rows of it. Grid
 * [ceil(M / rows), ceil(N / (4 * lanes)), matrices].
 *
 * Bindings: a, b, bias, residual, offsets and out, as `loads.wgsl.ts`, `epilogue.wgsl.ts` and
 * `placement.wgsl.ts` describe them; sums are f32.
 */

/** Steps along k of one block. */
const BLOCK = 4;

/**
 * How the lanes load a block of a, rows x 4, together: in pieces of `per` rows, of which a lane holds one vec4 (along k,
 * or along the rows where a is transposed) or one element.
 */
function blockOfA(v: MatmulVariant) {
  const per = Math.min(v.rows, v.vecA ? v.lanes : v.lanes / BLOCK);
  const pieces = Math.ceil(v.rows / per);
  const alongRows = v.vecA && v.transposeA;
  const lastRow = alongRows ? "params.M - 4u" : "row_end - 1u";
  const place = (): string => {
    const [row, k] = !v.vecA
      ? [`lane / ${BLOCK}u`, `lane % ${BLOCK}u`]
      : alongRows
        ? [`lane / ${BLOCK}u * 4u % ${per}u`, `lane % ${BLOCK}u`]
        : [`lane % ${per}u`, "0u"];
    return /* wgsl */ `
  let laneRow = ${row};
  let laneK = ${k};
  ${each(pieces, (i) => {
    const clamped = `min(row0 + laneRow + ${i * per}u, ${lastRow})`;
    return `let p${i} = ${v.transposeA ? clamped : `aBase + ${clamped} * params.K`};`;
  })}`;
  };
  const load = (): string =>
    each(pieces, (i) => {
      const index = v.transposeA ? `aBase + (k0 + laneK) * params.M + p${i}` : `p${i} + k0 + laneK`;
      return `let q${i} = ${v.vecA ? "a4_at" : "a_at"}(${index});`;
    });
  /** Element (row, k) of the block, from the lane that holds it. */
  const element = (row: number, k: number): string => {
    const piece = `q${Math.floor(row / per)}`;
    const r = row % per;
    if (!v.vecA) return `subgroupBroadcast(${piece}, ${r * BLOCK + k}u)`;
    if (alongRows) return `subgroupBroadcast(${piece}[${r % 4}], ${Math.floor(r / 4) * BLOCK + k}u)`;
    return `subgroupBroadcast(${piece}[${k}], ${r}u)`;
  };
  return { place, load, element };
}

/**
 * One subgroup per tile of `rows` x (lanes x 4). The lanes share the loads of a block of a, rows x 4; each value
 * is broadcast and multiplied into the four columns of every lane, so an element of a is loaded once for
 * 4 x lanes outputs and one of b once for `rows`.
 */
export function subgroupMatmul(v: MatmulVariant): string {
  const block = blockOfA(v);
  const multiply = (k: number, rowB: string): string => `{ let w = ${rowB};
  ${each(v.rows, (i) => `  acc${i} = fma(vec4f(${block.element(i, k)}), w, acc${i});`)}
  }`;
  const product =
    v.transposeB && v.vecB
      ? `${each(4, (i) => `let w${i} = b4_at(bBase + c${i} * params.K + k0);`)}
  ${each(4, (k) => multiply(k, `vec4f(w0[${k}], w1[${k}], w2[${k}], w3[${k}])`))}`
      : each(4, (k) => multiply(k, rowOfB(v, `k0 + ${k}u`)));
  const elementOfA = (i: number): string => {
    const row = `min(row0 + ${i}u, row_end - 1u)`;
    return v.transposeA ? `a_at(aBase + k * params.M + ${row})` : `a_at(aBase + ${row} * params.K + k)`;
  };
  const tail = /* wgsl */ `
  for (var k = k0; k < k_end; k++) {
    let w = ${rowOfB(v, "k")};
    ${each(v.rows, (i) => `acc${i} = fma(vec4f(${elementOfA(i)}), w, acc${i});`)}
  }`;
  return /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
var<private> rows: array<vec4f, ${v.rows}>;
@compute @workgroup_size(${v.lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  ${placement(v, v.rows)}
  let col = group.y * ${4 * v.lanes}u + lane * 4u;
  ${block.place()}
  ${columns(v)}
  ${each(v.rows, (i) => `var acc${i} = vec4f();`)}
  var k0 = k_first;
  for (; k0 + ${BLOCK}u <= k_end; k0 += ${BLOCK}u) {
  ${block.load()}
  ${product}
  }
  ${v.tail ? tail : ""}
  ${each(v.rows, (i) => `rows[${i}] = acc${i};`)}
  for (var i = 0u; i < min(${v.rows}u, row_end - row0); i++) { store(z, row0 + i, col, biasBase, rows[i]); }
}`;
}
