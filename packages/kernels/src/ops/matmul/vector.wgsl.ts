import { storeFunction } from "./epilogue.wgsl.js";
import { columns, loads, rowOfB } from "./loads.wgsl.js";
import { batchOffsets } from "./placement.wgsl.js";
import { each, vec4f } from "./text.js";
import type { MatmulVariant } from "./variant.js";

/*
 * A matrix product of at most four rows of a. Where b is stored [N, K] and there are subgroups, a workgroup
 * is one subgroup and owns four columns, an invocation every lanes-th vec4 of k; else a workgroup of 64
 * invocations owns 32 columns, and an invocation an eighth of k for four of them. Grid
 * [ceil(M / rows), ceil(N / 4) or ceil(N / 32), matrices].
 *
 * Bindings: a, b, bias, residual and out, as `loads.wgsl.ts` and `epilogue.wgsl.ts` describe them; sums are
 * f32.
 */

const THREADS = 64;
/** Columns of a workgroup: eight groups of four. */
export const VECTOR_COLUMNS = 32;

/** The lanes of a subgroup share four columns and add by themselves. */
const bySubgroup = (v: MatmulVariant): boolean => v.transposeB && v.lanes > 0;

const indexOfA = (v: MatmulVariant, row: number, k: string): string =>
  v.transposeA ? `aBase + (${k}) * params.M + r${row}` : `aBase + r${row} * params.K + ${k}`;

/** Add k to the sums of every row. */
const step = (v: MatmulVariant): string => /* wgsl */ `let w = ${rowOfB(v, "k")};
    ${each(v.rows, (i) => `acc${i} += a_at(${indexOfA(v, i, "k")}) * w;`)}`;

/** b stored [K, N]: thread t takes every eighth k for 4 columns. */
const sumAcrossRowsOfB = (v: MatmulVariant): string => /* wgsl */ `
  let col = group.y * ${VECTOR_COLUMNS}u + (thread % 8u) * 4u;
  ${columns(v)}
  for (var k = thread / 8u; k < params.K; k += 8u) {
    ${step(v)}
  }
  let slot = (thread % 8u) * 8u + thread / 8u;`;

/** b stored [N, K]: each thread of a group takes one vec4 of k in so many, for the 4 columns of the group. */
function sumAlongRowsOfB(v: MatmulVariant): string {
  const width = bySubgroup(v) ? v.lanes : 8;
  const fourOfA = (row: number): string =>
    v.vecA && !v.transposeA
      ? `a4_at(${indexOfA(v, row, "k")})`
      : vec4f((q) => `a_at(${indexOfA(v, row, `k + ${q}u`)})`);
  const fourOfB = (column: number): string =>
    v.vecB
      ? `b4_at(bBase + c${column} * params.K + k)`
      : vec4f((q) => `b_at(bBase + c${column} * params.K + k + ${q}u)`);
  return /* wgsl */ `
  let own = thread % ${width}u;
  let col = ${bySubgroup(v) ? "group.y * 4u" : `group.y * ${VECTOR_COLUMNS}u + (thread / 8u) * 4u`};
  ${columns(v)}
  for (var k = own * 4u; k + 4u <= params.K; k += ${4 * width}u) {
    ${each(4, (j) => `let w${j} = ${fourOfB(j)};`)}
    ${each(v.rows, (i) => `{ let x = ${fourOfA(i)}; acc${i} += vec4f(dot(x, w0), dot(x, w1), dot(x, w2), dot(x, w3)); }`)}
  }
  if (own == 0u) {
    for (var k = params.K / 4u * 4u; k < params.K; k++) {
    ${step(v)}
    }
  }
  let slot = thread;`;
}

const meetInSubgroup = (v: MatmulVariant): string =>
  each(
    v.rows,
    (i) =>
      `{ let sum = subgroupAdd(acc${i}); if (thread == 0u) { store(group.z, row0 + ${i}u, col, 0u, sum); } }`,
  );

/** 8 column groups x rows sums of 8 partial vectors each, in a fixed order. */
const meetInWorkgroup = (v: MatmulVariant): string => /* wgsl */ `
  ${each(v.rows, (i) => `partial[${64 * i}u + slot] = acc${i};`)}
  workgroupBarrier();
  for (var t = thread; t < ${8 * v.rows}u; t += 64u) {
    let row = t / 8u;
    let first = row * 64u + (t % 8u) * 8u;
    var sum = vec4f();
    for (var i = 0u; i < 8u; i++) { sum += partial[first + i]; }
    store(group.z, row0 + row, group.y * ${VECTOR_COLUMNS}u + (t % 8u) * 4u, 0u, sum);
  }`;

/**
 * A few rows times a matrix, where reading b is the cost: each element of b is read once and used for every row. A
 * column's partial sums, of the lanes of a subgroup or of eight threads, meet at the end.
 */
export const vectorMatmul = (v: MatmulVariant): string => /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
${bySubgroup(v) ? "" : `var<workgroup> partial: array<vec4f, ${64 * v.rows}>;`}
@compute @workgroup_size(${bySubgroup(v) ? v.lanes : THREADS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let row0 = group.x * ${v.rows}u;
  let aBase = batch_offset(group.z, params.strideA);
  let bBase = batch_offset(group.z, params.strideB);
  ${each(v.rows, (i) => `let r${i} = min(row0 + ${i}u, params.M - 1u);`)}
  ${each(v.rows, (i) => `var acc${i} = vec4f();`)}
  ${v.transposeB ? sumAlongRowsOfB(v) : sumAcrossRowsOfB(v)}
  ${bySubgroup(v) ? meetInSubgroup(v) : meetInWorkgroup(v)}
}`;
