import type { BindingSpec } from "../../kernel/kernel.js";
import { quantForm } from "../../stored/forms.js";
import { scaleFunction, storedBindings } from "../../stored/loads.wgsl.js";
import { blockLoads, fourColumns, wordsOfBlock } from "../../stored/block.wgsl.js";
import { storeFunction } from "./epilogue.wgsl.js";
import { batchOffsets } from "./placement.wgsl.js";
import { each } from "./text.js";
import { matmulBindings, type MatmulVariant } from "./variant.js";

/*
 * A matrix product of at most four rows of a with a stored b [N, K], K a multiple of 32, which is read in whole blocks of
 * 32. With `lanes`, a workgroup is one subgroup and owns 4 * lanes columns, an invocation four neighbouring columns over
 * all of k; the lanes load a block of a together and broadcast its elements. Without, a workgroup of 64 invocations owns
 * 4 * 64 / `team` columns, and the invocations of a team take every team-th block of four columns. Grid
 * [ceil(M / rows), ceil(N / columns of a workgroup), matrices].
 *
 * Bindings: a [batch, M, K] as vec4; b, its quants as vec4<u32>, b_high and b_scales as in `stored/loads.wgsl.ts`; bias,
 * residual and out as in `epilogue.wgsl.ts`; sums are f32.
 */

const THREADS = 64;

/** Columns of a workgroup. */
export const packedColumns = (lanes: number, team: number): number =>
  4 * (lanes > 0 ? lanes : THREADS / team);

export const packedBindings = (v: MatmulVariant): Record<string, BindingSpec> => ({
  ...matmulBindings(v),
  ...storedBindings(v.packed!, "b", "vec4<u32>"),
});

/** The block of a in row i: a lane's four elements, or all of it. */
const loadRow = (v: MatmulVariant, i: number): string =>
  v.lanes > 0
    ? `let x${i} = vec4f(a[r${i} + block * 8u + lane % 8u]);`
    : each(8, (j) => `let x${i}_${j} = vec4f(a[r${i} + block * 8u + ${j}u]);`);

/** Element e of the block of a in row i. */
const elementOfRow = (v: MatmulVariant, i: number, e: number): string =>
  v.lanes > 0 ? `subgroupBroadcast(x${i}[${e % 4}], ${e >> 2}u)` : `x${i}_${e >> 2}[${e % 4}]`;

/** Sum of the elements from e to e + count of the block of a in row i, which the minimum of a piece is multiplied by. */
function sumOfRow(v: MatmulVariant, i: number, e: number, count: number): string {
  const ones = "vec4f(1.0)";
  if (v.lanes > 0)
    return `subgroupAdd(select(0.0, dot(x${i}, ${ones}), lane >= ${e >> 2}u && lane < ${(e + count) >> 2}u))`;
  const fours = Array.from({ length: count >> 2 }, (_, j) => `x${i}_${(e >> 2) + j}`);
  return `dot(${fours.join(" + ")}, ${ones})`;
}

/** Add a block's product to the sums of every row and column. */
function multiplyBlock(v: MatmulVariant): string {
  const packed = v.packed!;
  const form = quantForm(packed);
  const element = (sum: string, e: number): string => `{ let w = ${fourColumns(packed, e)};
    ${each(v.rows, (i) => `${sum}${i} = fma(vec4f(${elementOfRow(v, i, e)}), w, ${sum}${i});`)} }`;
  if (!form) return each(32, (e) => element("acc", e));
  const count = form.scales === "signed" ? 16 : 32;
  const scaled = (first: number): string => `{
    ${each(v.rows, (i) => `var s${i} = vec4f();`)}
    ${each(count, (e) => element("s", first + e))}
    ${each(4, (j) => `let d${j} = b_scale((at${j} + block) * 2u + ${first / 16}u);`)}
    let d = vec4f(d0.x, d1.x, d2.x, d3.x);
    let m = vec4f(d0.y, d1.y, d2.y, d3.y);
    ${each(v.rows, (i) =>
      form.bits === 8
        ? `acc${i} = fma(d, s${i}, acc${i});`
        : `acc${i} += fma(d, s${i}, m * ${sumOfRow(v, i, first, count)});`,
    )}
    }`;
  return each(32 / count, (i) => scaled(i * count));
}

/** Sums of a team meet in workgroup memory and are added in order, those of each row and team by one invocation. */
const meet = ({ rows, team }: MatmulVariant): string => /* wgsl */ `
  ${each(rows, (i) => `partial[${THREADS * i}u + thread] = acc${i};`)}
  workgroupBarrier();
  for (var t = thread; t < ${(THREADS / team) * rows}u; t += ${THREADS}u) {
    let row = t / ${THREADS / team}u;
    let member = t % ${THREADS / team}u;
    var sum = vec4f();
    for (var i = 0u; i < ${team}u; i++) { sum += partial[row * ${THREADS}u + member * ${team}u + i]; }
    store(group.z, row0 + row, (group.y * ${THREADS / team}u + member) * 4u, 0u, sum);
  }`;

/** Few rows times a matrix in a stored form: quants become floats in registers, and a block's scale is applied once. */
export function packedVector(v: MatmulVariant): string {
  const packed = v.packed!;
  const form = quantForm(packed);
  const { lanes, team, rows } = v;
  return /* wgsl */ `
${batchOffsets(v)}
${form ? scaleFunction(form, "b") : ""}
${storeFunction(v)}
${lanes > 0 ? "" : `var<workgroup> partial: array<vec4f, ${THREADS * rows}>;`}
@compute @workgroup_size(${lanes > 0 ? lanes : THREADS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32${lanes > 0 ? ", @builtin(subgroup_invocation_id) lane: u32" : ""}) {
  let row0 = group.x * ${rows}u;
  let blocks = params.K / 32u;
  let aBase = batch_offset(group.z, params.strideA);
  let bBase = batch_offset(group.z, params.strideB) / 32u;
  ${lanes > 0 ? `let col = (group.y * ${lanes}u + lane) * 4u;` : `let own = thread % ${team}u;\n  let col = (group.y * ${THREADS / team}u + thread / ${team}u) * 4u;`}
  ${each(4, (j) => `let at${j} = bBase + min(col + ${j}u, params.N - 1u) * blocks;`)}
  ${each(rows, (i) => `let r${i} = (aBase + min(row0 + ${i}u, params.M - 1u) * params.K) / 4u;`)}
  ${each(rows, (i) => `var acc${i} = vec4f();`)}
  for (var block = ${lanes > 0 ? "0u" : "own"}; block < blocks; block += ${lanes > 0 ? 1 : team}u) {
    ${each(rows, (i) => loadRow(v, i))}
    ${each(4, (j) => blockLoads(packed, "b", j, `at${j} + block`))}
    ${wordsOfBlock(packed)}
    ${multiplyBlock(v)}
  }
  ${lanes > 0 ? each(rows, (i) => `store(group.z, row0 + ${i}u, col, 0u, acc${i});`) : meet(v)}
}`;
}
