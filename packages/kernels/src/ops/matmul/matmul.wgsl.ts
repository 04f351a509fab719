import { exprFunction, type ExprType } from "../../expr/wgsl.js";
import type { Expr } from "../../expr/expr.js";
import type { BindingSpec, ParamType } from "../../kernel.js";

/** What changes the code of a matmul. Shapes are not in it, only whether an extent is a multiple of four. */
export interface MatmulVariant {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly a: string;
  readonly b: string;
  readonly out: string;
  /** vec4 loads of a (along its last axis). */
  readonly vecA: boolean;
  readonly vecB: boolean;
  /** vec4 bias, residual and stores. */
  readonly vecOut: boolean;
  readonly bias: string | undefined;
  readonly residual: string | undefined;
  readonly activation: Expr | undefined;
  /** K is not a multiple of four. */
  readonly tail: boolean;
  /**
   * "rows": rows offsets[e]..offsets[e + 1] of a meet matrix e of b. "inner": output e sums over the k in that range.
   */
  readonly grouping: "none" | "rows" | "inner";
  /** More than one matrix. */
  readonly batched: boolean;
  /** Lanes of a subgroup, when the form uses them; 0 otherwise. */
  readonly lanes: number;
  /** Output rows that a subgroup or thread holds. */
  readonly rows: number;
}

const array = (dtype: string, vec: boolean): string => (vec ? `vec4<${dtype}>` : dtype);

export function matmulBindings(v: MatmulVariant): Record<string, BindingSpec> {
  return {
    a: `read ${array(v.a, v.vecA)}`,
    b: `read ${array(v.b, v.vecB)}`,
    ...(v.bias === undefined ? {} : { bias: `read ${array(v.bias, v.vecOut)}` as const }),
    ...(v.residual === undefined ? {} : { residual: `read ${array(v.residual, v.vecOut)}` as const }),
    ...(v.grouping === "none" ? {} : { offsets: "read u32" as const }),
    out: `write ${array(v.out, v.vecOut)}`,
  };
}

/** Sizes, and how the batch index z splits into up to four axes with a stride for each operand. */
export const matmulParams: Record<string, ParamType> = {
  batch: "vec4<u32>",
  strideA: "vec4<u32>",
  strideB: "vec4<u32>",
  M: "u32",
  N: "u32",
  K: "u32",
  alpha: "f32",
};

/** Offsets of the operands of batch z, in elements. */
const batchOffsets = (v: MatmulVariant): string =>
  !v.batched
    ? "fn batch_offset(z: u32, stride: vec4u) -> u32 { return 0u; }"
    : /* wgsl */ `
fn batch_offset(z: u32, stride: vec4u) -> u32 {
  let i3 = z % params.batch.w;
  let z2 = z / params.batch.w;
  let i2 = z2 % params.batch.z;
  let z1 = z2 / params.batch.z;
  return dot(vec4u(z1 / params.batch.y, z1 % params.batch.y, i2, i3), stride);
}`;

/**
 * Where a workgroup works: `row0` and `row_end`, `k_first` and `k_end`, the output matrix `z`, the operands' offsets.
 * Grouped rows: the launch has a workgroup for every tile that could exist; each finds its group by walking the
 * offsets; those past the last tile write zeros into the rows of no group, or leave.
 */
function placement(v: MatmulVariant, tile: number): string {
  switch (v.grouping) {
    case "none":
      return `
  let row0 = group.x * ${tile}u;
  let row_end = params.M;
  let k_first = 0u;
  let k_end = params.K;
  let z = group.z;
  let aBase = batch_offset(z, params.strideA);
  let bBase = batch_offset(z, params.strideB);
  let biasBase = 0u;`;
    case "rows":
      return `
  var left = group.x;
  var member = 0u;
  for (; member < params.batch.w; member++) {
    let tiles = (offsets[member + 1u] - offsets[member] + ${tile - 1}u) / ${tile}u;
    if (left < tiles) { break; }
    left -= tiles;
  }
  // Rows of no group: an empty product.
  let none = member == params.batch.w;
  let row0 = offsets[member] + left * ${tile}u;
  let row_end = select(offsets[min(member + 1u, params.batch.w)], params.M, none);
  if (row0 >= row_end${v.bias === undefined ? "" : " || none"}) { return; }
  let k_first = 0u;
  let k_end = select(params.K, 0u, none);
  let z = 0u;
  let aBase = 0u;
  let bBase = member * params.strideB.w;
  let biasBase = member * params.N;`;
    case "inner":
      return `
  let row0 = group.x * ${tile}u;
  let row_end = params.M;
  let z = group.z;
  let k_first = offsets[z];
  let k_end = offsets[z + 1u];
  let aBase = 0u;
  let bBase = 0u;
  let biasBase = 0u;`;
  }
}

const seq = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Functions that load operands as float32; indices past an edge are clamped, so they stay inside the batch. */
function loads(v: MatmulVariant): string {
  const a4 = (index: string): string =>
    v.vecA
      ? `vec4f(a[(${index}) / 4u])`
      : `vec4f(f32(a[${index}]), f32(a[${index} + 1u]), f32(a[${index} + 2u]), f32(a[${index} + 3u]))`;
  const lines = [
    `fn a_at(index: u32) -> f32 { return f32(${v.vecA ? "a[index / 4u][index % 4u]" : "a[index]"}); }`,
    `fn b_at(index: u32) -> f32 { return f32(${v.vecB ? "b[index / 4u][index % 4u]" : "b[index]"}); }`,
  ];
  if (v.vecA) lines.push(`fn a4_at(index: u32) -> vec4f { return ${a4("index")}; }`);
  if (v.vecB) lines.push(`fn b4_at(index: u32) -> vec4f { return vec4f(b[index / 4u]); }`);
  return lines.join("\n");
}

/** Epilogue and store of four neighbouring outputs of one row. */
export function storeFunction(v: MatmulVariant): string {
  const type: ExprType = "vec4f";
  const activation = v.activation ? exprFunction("activate", ["x"], v.activation, type) : "";
  const at = (name: string, index: string): string =>
    v.vecOut
      ? `vec4f(${name}[(${index}) / 4u])`
      : `vec4f(${seq(4)
          .map((i) => `f32(${name}[${index} + min(${String(i)}u, last)])`)
          .join(", ")})`;
  const store = v.vecOut
    ? `out[index / 4u] = vec4<${v.out}>(y);`
    : seq(4)
        .map(
          (i) =>
            `if (col + ${String(i)}u < params.N) { out[index + ${String(i)}u] = ${v.out}(y[${String(i)}]); }`,
        )
        .join("\n  ");
  return /* wgsl */ `
${activation}
fn store(z: u32, row: u32, col: u32, biasBase: u32, value: vec4f) {
  if (row >= params.M || col >= params.N) { return; }
  let index = (z * params.M + row) * params.N + col;
  let last = params.N - 1u - col;
  var y = value * params.alpha;
  ${v.bias === undefined ? "" : `y += ${at("bias", "biasBase + col")};`}
  ${v.activation ? "y = activate(y);" : ""}
  ${v.residual === undefined ? "" : `y += ${at("residual", "index")};`}
  ${store}
}`;
}

/** Steps along k of one block of the subgroup form. */
const BLOCK = 4;

/** Rows of a that the lanes of a subgroup load at once, by vec4 or one by one. */
const rowsPerLoad = (v: MatmulVariant): number => Math.min(v.rows, v.vecA ? v.lanes : v.lanes / BLOCK);

/**
 * One subgroup per tile of `rows` x (lanes x 4). The lanes share the loads of a block of a, rows x 4; each value
 * is broadcast and multiplied into the four columns of every lane, so an element of a is loaded once for
 * 4 x lanes outputs and one of b once for `rows`.
 */
export function subgroupMatmul(v: MatmulVariant): string {
  const S = v.lanes;
  const R = v.rows;
  const per = rowsPerLoad(v);
  // Where a lane loads within a piece of the block: one vec4 along k or along the rows, or one element.
  const [laneRow, laneK] = !v.vecA
    ? [`lane / ${String(BLOCK)}u`, `lane % ${String(BLOCK)}u`]
    : v.transposeA
      ? [`lane / ${String(BLOCK)}u * 4u % ${String(per)}u`, `lane % ${String(BLOCK)}u`]
      : [`lane % ${String(per)}u`, "0u"];
  const pieces = seq(Math.ceil(R / per));
  const loadA = pieces.map((i) => {
    const index = v.transposeA
      ? `aBase + (k0 + laneK) * params.M + p${String(i)}`
      : `p${String(i)} + k0 + laneK`;
    return `let q${String(i)} = ${v.vecA ? "a4_at" : "a_at"}(${index});`;
  });
  const valueA = (row: number, kk: number): string => {
    const piece = `q${String(Math.floor(row / per))}`;
    const r = row % per;
    if (!v.vecA) return `subgroupBroadcast(${piece}, ${String(r * BLOCK + kk)}u)`;
    if (v.transposeA)
      return `subgroupBroadcast(${piece}[${String(r % 4)}], ${String(Math.floor(r / 4) * BLOCK + kk)}u)`;
    return `subgroupBroadcast(${piece}[${String(kk)}], ${String(r)}u)`;
  };
  const fma = (kk: number, b: string): string[] => [
    `{ let w = ${b};`,
    ...seq(R).map((i) => `  acc${String(i)} = fma(vec4f(${valueA(i, kk)}), w, acc${String(i)});`),
    "}",
  ];
  const indexB = (i: number, k: string): string =>
    v.transposeB ? `bBase + c${String(i)} * params.K + ${k}` : `bBase + (${k}) * params.N + c${String(i)}`;
  const valueB = (k: string): string =>
    v.vecB && !v.transposeB
      ? `b4_at(${indexB(0, k)})`
      : `vec4f(${seq(4)
          .map((i) => `b_at(${indexB(i, k)})`)
          .join(", ")})`;
  const blockB =
    v.transposeB && v.vecB
      ? [
          ...seq(4).map((i) => `let w${String(i)} = b4_at(${indexB(i, "k0")});`),
          ...seq(4).flatMap((j) =>
            fma(j, `vec4f(w0[${String(j)}], w1[${String(j)}], w2[${String(j)}], w3[${String(j)}])`),
          ),
        ]
      : seq(4).flatMap((j) => fma(j, valueB(`k0 + ${String(j)}u`)));
  // Rows and columns past an edge read the last ones instead; their results are not stored.
  const clampRow = (i: number): string =>
    v.transposeA && v.vecA
      ? `min(row0 + laneRow + ${String(i * per)}u, params.M - 4u)`
      : `min(row0 + laneRow + ${String(i * per)}u, row_end - 1u)`;
  const clampCol = (i: number): string =>
    v.vecB && !v.transposeB
      ? `min(col + ${String(i)}u, params.N - 4u + ${String(i)}u)`
      : `min(col + ${String(i)}u, params.N - 1u)`;
  const indexA = (i: number): string => {
    const row = `min(row0 + ${String(i)}u, row_end - 1u)`;
    return v.transposeA ? `aBase + k * params.M + ${row}` : `aBase + ${row} * params.K + k`;
  };
  return /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
var<private> rows: array<vec4f, ${String(R)}>;
@compute @workgroup_size(${String(S)})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  ${placement(v, R)}
  let col = group.y * ${String(4 * S)}u + lane * 4u;
  let laneRow = ${laneRow};
  let laneK = ${laneK};
  ${pieces.map((i) => `let p${String(i)} = ${v.transposeA ? clampRow(i) : `aBase + ${clampRow(i)} * params.K`};`).join("\n  ")}
  ${seq(4)
    .map((i) => `let c${String(i)} = ${clampCol(i)};`)
    .join("\n  ")}
  ${seq(R)
    .map((i) => `var acc${String(i)} = vec4f();`)
    .join("\n  ")}
  var k0 = k_first;
  for (; k0 + ${String(BLOCK)}u <= k_end; k0 += ${String(BLOCK)}u) {
    ${[...loadA, ...blockB].join("\n    ")}
  }
  ${
    v.tail
      ? `for (var k = k0; k < k_end; k++) {
    let w = ${valueB("k")};
    ${seq(R)
      .map((i) => `acc${String(i)} = fma(vec4f(a_at(${indexA(i)})), w, acc${String(i)});`)
      .join("\n    ")}
  }`
      : ""
  }
  ${seq(R)
    .map((i) => `rows[${String(i)}] = acc${String(i)};`)
    .join("\n  ")}
  for (var i = 0u; i < min(${String(R)}u, row_end - row0); i++) { store(z, row0 + i, col, biasBase, rows[i]); }
}`;
}

/** Tile of the form with workgroup memory: 64 x 64 outputs, 64 threads of 8 x 8, steps of 16 along k. */
export const TILE = 64;
const STEP = 16;

/** Both operands staged in workgroup memory; right on any adapter. */
export function tiledMatmul(v: MatmulVariant): string {
  const stage = (name: "a" | "b"): string => {
    const [extent, end, first, transposed] =
      name === "a"
        ? ["params.M", "row_end", "row0", !v.transposeA]
        : ["params.N", "params.N", "col0", v.transposeB];
    // Neighbouring threads read neighbouring memory: along k when the operand is stored [extent, K].
    const [e, k] = transposed
      ? [`i / ${String(STEP)}u`, `i % ${String(STEP)}u`]
      : [`i % ${String(TILE)}u`, `i / ${String(TILE)}u`];
    const index = transposed ? `(${first} + e) * params.K + k0 + k` : `(k0 + k) * ${extent} + ${first} + e`;
    return /* wgsl */ `
    for (var i = thread; i < ${String(TILE * STEP)}u; i += 64u) {
      let e = ${e};
      let k = ${k};
      var value = 0.0;
      if (${first} + e < ${end} && k0 + k < k_end) { value = ${name}_at(${name}Base + ${index}); }
      tile_${name}[k * ${String(TILE)}u + e] = value;
    }`;
  };
  return /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
var<private> rows: array<vec4f, 16>;
var<workgroup> tile_a: array<f32, ${String(TILE * STEP)}>;
var<workgroup> tile_b: array<f32, ${String(TILE * STEP)}>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  ${placement(v, TILE)}
  let col0 = group.y * ${String(TILE)}u;
  let r = (thread / 8u) * 8u;
  let c = (thread % 8u) * 4u;
  ${seq(8)
    .map((i) => `var left${String(i)} = vec4f(); var right${String(i)} = vec4f();`)
    .join("\n  ")}
  for (var k0 = k_first; k0 < k_end; k0 += ${String(STEP)}u) {
    ${stage("a")}
    ${stage("b")}
    workgroupBarrier();
    for (var k = 0u; k < ${String(STEP)}u; k++) {
      let at = k * ${String(TILE)}u + c;
      let b0 = vec4f(tile_b[at], tile_b[at + 1u], tile_b[at + 2u], tile_b[at + 3u]);
      let b1 = vec4f(tile_b[at + 32u], tile_b[at + 33u], tile_b[at + 34u], tile_b[at + 35u]);
      ${seq(8)
        .map(
          (i) =>
            `{ let x = vec4f(tile_a[k * ${String(TILE)}u + r + ${String(i)}u]); left${String(i)} = fma(x, b0, left${String(i)}); right${String(i)} = fma(x, b1, right${String(i)}); }`,
        )
        .join("\n      ")}
    }
    workgroupBarrier();
  }
  ${seq(8)
    .map((i) => `rows[${String(2 * i)}] = left${String(i)}; rows[${String(2 * i + 1)}] = right${String(i)};`)
    .join("\n  ")}
  for (var i = 0u; i < 16u; i++) {
    let row = row0 + r + i / 2u;
    if (row < row_end) { store(z, row, col0 + c + (i % 2u) * 32u, biasBase, rows[i]); }
  }
}`;
}

/** Threads of the matrix-times-vector forms, and the outputs that a workgroup makes. */
export const VECTOR_THREADS = 64;
export const VECTOR_COLUMNS = 32;

/**
 * A few rows times a matrix, where reading b is the cost: each element of b is read once and used for every row.
 * Stored [K, N]: 8 columns groups of 4 by 8 slices of k. Stored [N, K]: threads stride along k in vec4, each for
 * 4 outputs: the lanes of a subgroup, which add by themselves, or eight threads. Partial sums of threads meet in
 * workgroup memory in a fixed order.
 */
export function vectorMatmul(v: MatmulVariant): string {
  const R = v.rows;
  const rows = seq(R);
  const rowIndex = (i: number): string => `min(row0 + ${String(i)}u, params.M - 1u)`;
  const aIndex = (i: number, k: string): string =>
    v.transposeA ? `aBase + (${k}) * params.M + r${String(i)}` : `aBase + r${String(i)} * params.K + ${k}`;
  const subgroup = v.transposeB && v.lanes > 0;
  const width = subgroup ? v.lanes : 8;
  const column = v.transposeB
    ? /* wgsl */ `
  // Each thread of a group takes one vec4 of k in so many, for the 4 columns of the group.
  let own = thread % ${String(width)}u;
  let col = ${subgroup ? "group.y * 4u" : `group.y * ${String(VECTOR_COLUMNS)}u + (thread / 8u) * 4u`};
  ${seq(4)
    .map((j) => `let c${String(j)} = min(col + ${String(j)}u, params.N - 1u);`)
    .join("\n  ")}
  for (var k = own * 4u; k + 4u <= params.K; k += ${String(4 * width)}u) {
    ${seq(4)
      .map((j) =>
        v.vecB
          ? `let w${String(j)} = b4_at(bBase + c${String(j)} * params.K + k);`
          : `let w${String(j)} = vec4f(${seq(4)
              .map((i) => `b_at(bBase + c${String(j)} * params.K + k + ${String(i)}u)`)
              .join(", ")});`,
      )
      .join("\n    ")}
    ${rows
      .map((i) => {
        const x =
          v.vecA && !v.transposeA
            ? `a4_at(${aIndex(i, "k")})`
            : `vec4f(${seq(4)
                .map((q) => `a_at(${aIndex(i, `k + ${String(q)}u`)})`)
                .join(", ")})`;
        return `{ let x = ${x}; acc${String(i)} += vec4f(dot(x, w0), dot(x, w1), dot(x, w2), dot(x, w3)); }`;
      })
      .join("\n    ")}
  }
  if (own == 0u) {
    for (var k = params.K / 4u * 4u; k < params.K; k++) {
      let w = vec4f(${seq(4)
        .map((j) => `b_at(bBase + c${String(j)} * params.K + k)`)
        .join(", ")});
      ${rows.map((i) => `acc${String(i)} += a_at(${aIndex(i, "k")}) * w;`).join("\n      ")}
    }
  }
  let slot = thread;`
    : /* wgsl */ `
  // Thread t takes every eighth k for 4 columns.
  let col = group.y * ${String(VECTOR_COLUMNS)}u + (thread % 8u) * 4u;
  ${seq(4)
    .map(
      (j) =>
        `let c${String(j)} = ${v.vecB ? `min(col + ${String(j)}u, params.N - 4u + ${String(j)}u)` : `min(col + ${String(j)}u, params.N - 1u)`};`,
    )
    .join("\n  ")}
  for (var k = thread / 8u; k < params.K; k += 8u) {
    let w = ${
      v.vecB
        ? "b4_at(bBase + k * params.N + c0)"
        : `vec4f(${seq(4)
            .map((j) => `b_at(bBase + k * params.N + c${String(j)})`)
            .join(", ")})`
    };
    ${rows.map((i) => `acc${String(i)} += a_at(${aIndex(i, "k")}) * w;`).join("\n    ")}
  }
  let slot = (thread % 8u) * 8u + thread / 8u;`;
  const meet = subgroup
    ? rows
        .map(
          (i) =>
            `{ let sum = subgroupAdd(acc${String(i)}); if (thread == 0u) { store(group.z, row0 + ${String(i)}u, col, 0u, sum); } }`,
        )
        .join("\n  ")
    : /* wgsl */ `${rows.map((i) => `partial[${String(64 * i)}u + slot] = acc${String(i)};`).join("\n  ")}
  workgroupBarrier();
  // 8 column groups x rows sums of 8 partial vectors each.
  for (var t = thread; t < ${String(8 * R)}u; t += 64u) {
    let row = t / 8u;
    let first = row * 64u + (t % 8u) * 8u;
    var sum = vec4f();
    for (var i = 0u; i < 8u; i++) { sum += partial[first + i]; }
    store(group.z, row0 + row, group.y * ${String(VECTOR_COLUMNS)}u + (t % 8u) * 4u, 0u, sum);
  }`;
  return /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
${subgroup ? "" : `var<workgroup> partial: array<vec4f, ${String(64 * R)}>;`}
@compute @workgroup_size(${String(subgroup ? v.lanes : VECTOR_THREADS)})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let row0 = group.x * ${String(R)}u;
  let aBase = batch_offset(group.z, params.strideA);
  let bBase = batch_offset(group.z, params.strideB);
  ${rows.map((i) => `let r${String(i)} = ${rowIndex(i)};`).join("\n  ")}
  ${rows.map((i) => `var acc${String(i)} = vec4f();`).join("\n  ")}
  ${column}
  ${meet}
}`;
}

/** Columns of a workgroup of the wide form: one vec4 for each of its threads. */
export const WIDE_COLUMNS: number = 4 * VECTOR_THREADS;

/**
 * A few rows times a wide matrix stored [K, N], vec4 everywhere: a workgroup walks down K over 1 KiB of columns, so
 * that memory is read in long runs, and one vec4 of a serves four rows of b. Sums stay in registers; there are
 * N / 256 workgroups, which is enough for the cores of a CPU and too few for a GPU.
 */
export function wideVectorMatmul(v: MatmulVariant): string {
  const rows = seq(v.rows);
  return /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${storeFunction(v)}
@compute @workgroup_size(${String(VECTOR_THREADS)})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let row0 = group.x * ${String(v.rows)}u;
  let col = group.y * ${String(WIDE_COLUMNS)}u + thread * 4u;
  let aBase = batch_offset(group.z, params.strideA);
  var at = batch_offset(group.z, params.strideB) + min(col, params.N - 4u);
  ${rows.map((i) => `let r${String(i)} = aBase + min(row0 + ${String(i)}u, params.M - 1u) * params.K;`).join("\n  ")}
  ${rows.map((i) => `var acc${String(i)} = vec4f();`).join("\n  ")}
  for (var k = 0u; k < params.K; k += 4u) {
    ${seq(4)
      .map((j) => `let w${String(j)} = b4_at(at + ${String(j)}u * params.N);`)
      .join("\n    ")}
    at += 4u * params.N;
    ${rows
      .map(
        (i) =>
          `{ let x = a4_at(r${String(i)} + k); acc${String(i)} += x.x * w0 + x.y * w1 + x.z * w2 + x.w * w3; }`,
      )
      .join("\n    ")}
  }
  ${rows.map((i) => `store(group.z, row0 + ${String(i)}u, col, 0u, acc${String(i)});`).join("\n  ")}
}`;
}
