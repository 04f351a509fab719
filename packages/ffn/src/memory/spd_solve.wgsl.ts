import { flatMain, groupMain, defineKernel } from "@x/kernels";

/*
 * Solution of a symmetric positive definite system by Cholesky's factorisation in blocks of BLOCK columns.
 *
 * - `equilibrate`: an invocation owns one element of l; n * n invocations in workgroups of 64.
 * - `factorDiagonal`: one workgroup of 64 owns a diagonal block, in its memory.
 * - `factorPanel`: an invocation owns one row below the block; workgroups of 64.
 * - `factorUpdate`: an invocation owns one element below and right of the block; workgroups of 8 x 8.
 * - `substitute`: a workgroup of 64 owns one column of b; an invocation every 64th row of it.
 *
 * Bindings, f32: a, l [n, n]; d [n], the scale; b, x [n, columns].
 */

/** Columns that one step of the factorisation finishes. */
export const BLOCK = 32;

/**
 * l = D (A + ridge I) D with D = 1 / sqrt(diagonal): a unit diagonal, which costs nothing and loses less precision.
 * One invocation: one element.
 */
export const equilibrate = defineKernel({
  name: "spdEquilibrate",
  bindings: { a: "read f32", l: "write f32", d: "write f32" },
  params: { n: "u32", ridge: "f32" },
  // A negative diagonal stays NaN: such a matrix is not positive, and no scale makes it so.
  wgsl: () => /* wgsl */ `
fn scale(x: f32) -> f32 { return select(inverseSqrt(x), 1.0, x == 0.0); }
${flatMain("at", "params.n * params.n")}
  let n = params.n;
  let i = at / n;
  let j = at % n;
  let di = scale(a[i * n + i] + params.ridge);
  let dj = scale(a[j * n + j] + params.ridge);
  l[at] = di * dj * (a[at] + select(0.0, params.ridge, i == j));
  if (i == j) { d[i] = di; }
}`,
});

/**
 * Pivots of the unit diagonal that are rounding errors of 0: they count as FLOOR, the least ridge that float32 can tell
 * from them, so that a singular matrix has the limit of a vanishing ridge. Below BELOW a matrix is not semi-definite.
 */
const FLOOR = 2 ** -21;
const BELOW = -(2 ** -12);

/** Cholesky factor of the diagonal block at \`first\`. One workgroup. A pivot that is negative gives NaN. */
export const factorDiagonal = defineKernel({
  name: "spdFactorDiagonal",
  bindings: { l: "read_write f32" },
  params: { n: "u32", first: "u32", nan: "u32" },
  wgsl: () => /* wgsl */ `
const B = ${String(BLOCK)}u;
var<workgroup> t: array<f32, B * B>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
  let b = min(B, params.n - params.first);
  for (var e = lane; e < b * b; e += 64u) {
    t[e / b * B + e % b] = l[(params.first + e / b) * params.n + params.first + e % b];
  }
  workgroupBarrier();
  for (var j = 0u; j < b; j++) {
    let square = t[j * B + j];
    workgroupBarrier();
    let pivot = select(bitcast<f32>(params.nan), sqrt(max(square, ${String(FLOOR)})), square > ${String(BELOW)});
    for (var i = j + lane; i < b; i += 64u) { t[i * B + j] = select(t[i * B + j] / pivot, pivot, i == j); }
    workgroupBarrier();
    let rest = b - j - 1u;
    for (var e = lane; e < rest * rest; e += 64u) {
      let r = j + 1u + e / rest;
      let c = j + 1u + e % rest;
      t[r * B + c] -= t[r * B + j] * t[c * B + j];
    }
    workgroupBarrier();
  }
  for (var e = lane; e < b * b; e += 64u) {
    l[(params.first + e / b) * params.n + params.first + e % b] = t[e / b * B + e % b];
  }
}`,
});

/** Rows below a finished diagonal block: row = row L_block^-T. One invocation: one row. */
export const factorPanel = defineKernel({
  name: "spdFactorPanel",
  bindings: { l: "read_write f32" },
  params: { n: "u32", first: "u32" },
  wgsl: () => /* wgsl */ `
const B = ${String(BLOCK)}u;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = params.first + B + id.x;
  if (row >= params.n) { return; }
  var y: array<f32, B>;
  for (var j = 0u; j < B; j++) {
    let pivot = (params.first + j) * params.n + params.first;
    var value = l[row * params.n + params.first + j];
    for (var m = 0u; m < j; m++) { value -= y[m] * l[pivot + m]; }
    y[j] = value / l[pivot + j];
    l[row * params.n + params.first + j] = y[j];
  }
}`,
});

/** What is left, less the product of the finished panel with itself. One invocation: one element on or below the diagonal. */
export const factorUpdate = defineKernel({
  name: "spdFactorUpdate",
  bindings: { l: "read_write f32" },
  params: { n: "u32", first: "u32" },
  wgsl: () => /* wgsl */ `
const B = ${String(BLOCK)}u;
@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let j = params.first + B + id.x;
  let i = params.first + B + id.y;
  if (i >= params.n || j > i) { return; }
  var value = l[i * params.n + j];
  for (var m = params.first; m < params.first + B; m++) { value -= l[i * params.n + m] * l[j * params.n + m]; }
  l[i * params.n + j] = value;
}`,
});

/** x = D L^-T L^-1 D b. One workgroup: one column of b; a step finishes one unknown and takes it off the others. */
export const substitute = defineKernel({
  name: "spdSubstitute",
  bindings: { l: "read f32", d: "read f32", b: "read f32", x: "read_write f32" },
  params: { n: "u32", columns: "u32" },
  wgsl: () => /* wgsl */ `
${groupMain("column", "params.columns")}
  let n = params.n;
  let width = params.columns;
  for (var i = lane; i < n; i += 64u) { x[i * width + column] = d[i] * b[i * width + column]; }
  storageBarrier();
  for (var j = 0u; j < n; j++) {
    let value = x[j * width + column] / l[j * n + j];
    storageBarrier();
    for (var i = j + lane; i < n; i += 64u) {
      x[i * width + column] = select(x[i * width + column] - l[i * n + j] * value, value, i == j);
    }
    storageBarrier();
  }
  for (var k = n; k > 0u; k--) {
    let j = k - 1u;
    let value = x[j * width + column] / l[j * n + j];
    storageBarrier();
    for (var i = lane; i <= j; i += 64u) {
      x[i * width + column] = select(x[i * width + column] - l[j * n + i] * value, value, i == j);
    }
    storageBarrier();
  }
  for (var i = lane; i < n; i += 64u) { x[i * width + column] = d[i] * x[i * width + column]; }
}`,
});
