import { storeFunction } from "./epilogue.wgsl.js";
import { loads } from "./loads.wgsl.js";
import { batchOffsets } from "./placement.wgsl.js";
import { each } from "./text.js";
import type { MatmulVariant } from "./variant.js";

/*
 * A matrix product of few rows with a wide b. A workgroup of 64 invocations owns 256 columns of at most four
 * rows, an invocation four neighbouring columns of them over all of k. Grid
 * [ceil(M / rows), ceil(N / 256), matrices].
 *
 * Bindings: a [batch, M, K], b [batch, K, N], out and the rest, as `loads.wgsl.ts` and `epilogue.wgsl.ts`
 * describe them, all read as vec4; sums are f32.
 */

const THREADS = 64;
/** Columns of a workgroup: one vec4 for each of its threads. */
export const WIDE_COLUMNS: number = 4 * THREADS;

/**
 * A few rows times a wide matrix stored [K, N], vec4 everywhere: a workgroup walks down K over 1 KiB of columns, so
 * that memory is read in long runs, and one vec4 of a serves four rows of b. Sums stay in registers; there are
 * N / 256 workgroups, which is enough for the cores of a CPU and too few for a GPU.
 */
export const wideMatmul = (v: MatmulVariant): string => /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let row0 = group.x * ${v.rows}u;
  let col = group.y * ${WIDE_COLUMNS}u + thread * 4u;
  let aBase = batch_offset(group.z, params.strideA);
  var at = batch_offset(group.z, params.strideB) + min(col, params.N - 4u);
  ${each(v.rows, (i) => `let r${i} = aBase + min(row0 + ${i}u, params.M - 1u) * params.K;`)}
  ${each(v.rows, (i) => `var acc${i} = vec4f();`)}
  for (var k = 0u; k < params.K; k += 4u) {
    ${each(4, (j) => `let w${j} = b4_at(at + ${j}u * params.N);`)}
    at += 4u * params.N;
    ${each(v.rows, (i) => `{ let x = a4_at(r${i} + k); acc${i} += x.x * w0 + x.y * w1 + x.z * w2 + x.w * w3; }`)}
  }
  ${each(v.rows, (i) => `store(group.z, row0 + ${i}u, col, 0u, acc${i});`)}
}`;
