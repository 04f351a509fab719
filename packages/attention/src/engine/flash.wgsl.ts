import type { BindingSpec, ParamType } from "@x/kernels";
import { scoreBindings, scoreFunctions, scoreParams, type ScoreVariant } from "./scores.wgsl.js";

/**
 * Attention in tiles, after Dao et al. 2022 (FlashAttention) and 2023: the matrix of scores exists only as a tile of
 * ROWS rows by 4 LANES columns. A group of lanes holds ROWS rows of one operand and streams the other past them.
 * The query heads that share a key head are rows of the same tile, so keys and values are read once for all of them.
 */
export interface FlashVariant extends ScoreVariant {
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly out: string;
  /** Lanes of a subgroup of fixed size, or 0: a workgroup of 32 without subgroup operations. */
  readonly lanes: number;
  /** The subgroup is the whole workgroup and runs as one vector thread. */
  readonly lockstep: boolean;
  /** Head sizes and strides are multiples of four. */
  readonly vecQK: boolean;
  readonly vecV: boolean;
  /** Pieces of 4 LANES columns that the accumulators for d and dv take. */
  readonly piecesQK: number;
  readonly piecesV: number;
  readonly sinks: boolean;
  /** Cotangent of the weights summed by distance: adds to dp. */
  readonly weightSums: boolean;
}

const ROWS = 8;
/** Lanes without subgroups. */
const WIDTH = 32;
const lanesOf = (v: FlashVariant): number => v.lanes || WIDTH;

/**
 * A barrier between the phases of a tile. A subgroup of the software adapter is one vector thread: its lanes are
 * always at the same instruction, and a barrier there (40 % of the time) orders what is ordered already.
 */
const barrier = (v: FlashVariant): string => (v.lockstep ? "" : "workgroupBarrier();");

/** Columns of a tile. */
export const tileColumns = (v: FlashVariant): number => 4 * lanesOf(v);
export const TILE_ROWS: number = ROWS;

const seq = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const element = (dtype: string, vec: boolean): string => (vec ? `vec4<${dtype}>` : dtype);
const bind = (access: "read" | "write", type: string): BindingSpec => `${access} ${type}`;

const commonParams: Record<string, ParamType> = {
  q_stride: "vec4<u32>",
  k_stride: "vec4<u32>",
  v_stride: "vec4<u32>",
  o_stride: "vec4<u32>",
  heads: "u32",
  group: "u32",
  queries: "u32",
  keys: "u32",
  head_dim: "u32",
  value_dim: "u32",
  scale: "f32",
  offset: "i32",
  window_left: "i32",
  window_right: "i32",
};

export function flashParams(v: FlashVariant): Record<string, ParamType> {
  return {
    ...commonParams,
    ...scoreParams(v),
    ...(v.weightSums ? { sums_rows: "u32", sums_min: "i32" } : {}),
  };
}

/** `name4(base, d)`: four neighbouring features from d on, zero past the end. */
function loader(name: string, vec: boolean, limit: string): string {
  return vec
    ? `fn ${name}4(base: u32, d: u32) -> vec4f { return vec4f(${name}[(base + d) / 4u]); }`
    : `fn ${name}4(base: u32, d: u32) -> vec4f {
  var x = vec4f();
  for (var i = 0u; i < 4u; i++) { if (d + i < ${limit}) { x[i] = f32(${name}[base + d + i]); } }
  return x;
}`;
}

function storer(name: string, dtype: string, vec: boolean, limit: string): string {
  return vec
    ? `fn store_${name}(base: u32, d: u32, x: vec4f) { if (d < ${limit}) { ${name}[(base + d) / 4u] = vec4<${dtype}>(x); } }`
    : `fn store_${name}(base: u32, d: u32, x: vec4f) {
  for (var i = 0u; i < 4u; i++) { if (d + i < ${limit}) { ${name}[base + d + i] = ${dtype}(x[i]); } }
}`;
}

const bases = /* wgsl */ `
fn q_base(b: u32, h: u32, row: u32) -> u32 { return dot(vec3u(b, h, row), params.q_stride.xyz); }
fn k_base(b: u32, h: u32, col: u32) -> u32 { return dot(vec3u(b, h, col), params.k_stride.xyz); }
fn v_base(b: u32, h: u32, col: u32) -> u32 { return dot(vec3u(b, h, col), params.v_stride.xyz); }
fn o_base(b: u32, h: u32, row: u32) -> u32 { return dot(vec3u(b, h, row), params.o_stride.xyz); }
// Rows of a tile count the query heads of a group fastest: row = query * group + head in the group.
fn query_of(r: u32) -> u32 { return r / params.group; }
fn head_of(r: u32, kv_head: u32) -> u32 { return kv_head * params.group + r % params.group; }`;

/** Row r's value of something that lane r holds. */
const spread = (v: FlashVariant, value: string, row: number): string =>
  v.lanes > 0 ? `subgroupBroadcast(${value}, ${row}u)` : `rows_${value}[${row}]`;

/**
 * acc_r += X[r, :] . Y[c, :] for the tile's rows r and this lane's four columns c, over `limit` features. Lane r
 * loads row r of X; `xBase` is its base, `y<i>` the bases of the four columns.
 */
function product(
  v: FlashVariant,
  acc: string,
  x: string,
  xBase: string,
  y: string,
  yBase: string,
  limit: string,
): string {
  const row = (r: number, kk: number): string =>
    v.lanes > 0 ? `subgroupBroadcast(x_own[${kk}], ${r}u)` : `x_rows[${r}][${kk}]`;
  return /* wgsl */ `
    for (var d = 0u; d < ${limit}; d += 4u) {
      ${
        v.lanes > 0
          ? `let x_own = ${x}4(${xBase}, d);`
          : `var x_rows: array<vec4f, ${ROWS}>;
      for (var r = 0u; r < ${ROWS}u; r++) { x_rows[r] = ${x}4(shared_base[r], d); }`
      }
      ${seq(4)
        .map((i) => `let y${i} = ${y}4(${yBase}${i}, d);`)
        .join(" ")}
      ${seq(4)
        .map(
          (kk) => `{ let w = vec4f(y0[${kk}], y1[${kk}], y2[${kk}], y3[${kk}]);
        ${seq(ROWS)
          .map((r) => `${acc}${r} = fma(vec4f(${row(r, kk)}), w, ${acc}${r});`)
          .join(" ")} }`,
        )
        .join("\n      ")}
    }`;
}

/**
 * acc_{r,p} += sum_c tile[r, c] Y[c, columns of this lane]. A plain loop over the columns: unrolled text would run
 * no faster and take the software adapter seconds to compile.
 */
function accumulate(
  v: FlashVariant,
  acc: string,
  tile: string,
  y: string,
  yBase: (col: string) => string,
  pieces: number,
  limit: string,
): string {
  const L = lanesOf(v);
  const value = (r: number): string =>
    v.lanes > 0 ? `subgroupBroadcast(p_own, ${r}u)` : `${tile}[${r * L}u + c / 4u][c % 4u]`;
  return /* wgsl */ `
    for (var c = 0u; c < 4u * used; c++) {
      let base = ${yBase("c0 + c")};
      ${v.lanes > 0 ? `let p_own = ${tile}[(lane % ${ROWS}u) * ${L}u + c / 4u][c % 4u];` : ""}
      ${seq(pieces)
        .map((p) => `let w${p} = ${y}4(base, min(lane * 4u + ${p * 4 * L}u, ${limit} - 1u));`)
        .join("\n      ")}
      ${seq(ROWS)
        .map(
          (r) =>
            `{ let a = vec4f(${value(r)}); ${seq(pieces)
              .map((p) => `${acc}${r}_${p} = fma(a, w${p}, ${acc}${r}_${p});`)
              .join(" ")} }`,
        )
        .join("\n      ")}
    }`;
}

const declare = (name: string, pieces: number): string =>
  seq(ROWS)
    .flatMap((r) => seq(pieces).map((p) => `var ${name}${r}_${p} = vec4f();`))
    .join(" ");
const zero = (name: string): string =>
  seq(ROWS)
    .map((r) => `var ${name}${r} = vec4f();`)
    .join(" ");
const toTile = (v: FlashVariant, tile: string, name: string, factor = ""): string =>
  seq(ROWS)
    .map((r) => `${tile}[${r * lanesOf(v)}u + lane] = ${name}${r}${factor};`)
    .join("\n    ");

const head = (v: FlashVariant): string => /* wgsl */ `
@compute @workgroup_size(${lanesOf(v)})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let kv_head = group.y;
  let all_rows = params.queries * params.group;
  let r0 = group.x * ${ROWS}u;`;

/** First and one past the last key that rows from..to may see, when positions are row numbers. */
const keyRange = (v: FlashVariant, from: string, to: string): string => {
  const lines = ["var first_key = 0; var end_key = i32(params.keys);"];
  if (!v.positions) {
    if (v.causal) lines.push(`end_key = min(end_key, i32(${to}) + params.offset + 1);`);
    if (v.window) {
      lines.push(
        `first_key = max(first_key, i32(${from}) + params.offset - min(params.window_left, 0x3fffffff));`,
      );
      lines.push(
        `end_key = min(end_key, i32(${to}) + params.offset + min(params.window_right, 0x3fffffff) + 1);`,
      );
    }
  }
  return lines.join("\n  ");
};

const LOW = "-3.0e38";

export function forwardBindings(v: FlashVariant): Record<string, BindingSpec> {
  return {
    q: bind("read", element(v.q, v.vecQK)),
    k: bind("read", element(v.k, v.vecQK)),
    v: bind("read", element(v.v, v.vecV)),
    ...scoreBindings(v),
    ...(v.sinks ? { sinks: bind("read", "f32") } : {}),
    out: bind("write", element(v.out, v.vecV)),
    lse: bind("write", "f32"),
  };
}

const shareBase = (v: FlashVariant, base: string): string =>
  v.lanes > 0 ? "" : `if (lane < ${ROWS}u) { shared_base[lane] = ${base}; } workgroupBarrier();`;
const sharedDeclarations = (v: FlashVariant, ...rows: string[]): string =>
  v.lanes > 0
    ? ""
    : [
        `var<workgroup> shared_base: array<u32, ${ROWS}>;`,
        ...rows.map((name) => `var<workgroup> rows_${name}: array<f32, ${ROWS}>;`),
      ].join("\n");

export function flashForward(v: FlashVariant): string {
  const L = lanesOf(v);
  return /* wgsl */ `
${bases}
${scoreFunctions(v)}
${loader("q", v.vecQK, "params.head_dim")}
${loader("k", v.vecQK, "params.head_dim")}
${loader("v", v.vecV, "params.value_dim")}
${storer("out", v.out, v.vecV, "params.value_dim")}
var<workgroup> tile: array<vec4f, ${ROWS * L}>;
${sharedDeclarations(v, "alpha", "inverse")}
var<private> result: array<vec4f, ${ROWS * v.piecesV}>;
${head(v)}
  let own = min(r0 + lane % ${ROWS}u, all_rows - 1u);
  let row = query_of(own);
  let h = head_of(own, kv_head);
  let x_base = q_base(b, h, row);
  ${shareBase(v, "x_base")}
  ${keyRange(v, "query_of(r0)", `query_of(min(r0 + ${ROWS - 1}u, all_rows - 1u))`)}
  var top = ${LOW};
  var total = 0.0;
  ${declare("o", v.piecesV)}
  for (var c0 = u32(max(first_key, 0)) / ${4 * L}u * ${4 * L}u; i32(c0) < end_key; c0 += ${4 * L}u) {
    // Columns in use, by fours; not a constant, so that compilers leave the loops below as loops.
    let used = min(${L}u, (u32(end_key) - c0 + 3u) / 4u);
    ${seq(4)
      .map((i) => `let y_base${i} = k_base(b, kv_head, min(c0 + 4u * lane + ${i}u, params.keys - 1u));`)
      .join("\n    ")}
    ${zero("s")}
    ${product(v, "s", "q", "x_base", "k", "y_base", "params.head_dim")}
    ${toTile(v, "tile", "s", " * params.scale")}
    ${barrier(v)}
    var alpha = 1.0;
    if (lane < ${ROWS}u) {
      var high = top;
      for (var t = 0u; t < used; t++) {
        var s = tile[lane * ${L}u + t];
        for (var i = 0u; i < 4u; i++) {
          let col = c0 + 4u * t + i;
          let at = place(b, row, col);
          if (seen(b, h, row, col, at)) { s[i] = score(s[i], b, h, row, col, at).x; high = max(high, s[i]); } else { s[i] = ${LOW}; }
        }
        tile[lane * ${L}u + t] = s;
      }
      alpha = exp(top - high);
      total *= alpha;
      for (var t = 0u; t < used; t++) {
        let s = tile[lane * ${L}u + t];
        let p = select(exp(s - high), vec4f(), s <= vec4f(${LOW}));
        total += (p.x + p.y) + (p.z + p.w);
        tile[lane * ${L}u + t] = p;
      }
      top = high;
      ${v.lanes > 0 ? "" : "rows_alpha[lane] = alpha;"}
    }
    ${barrier(v)}
    ${seq(ROWS)
      .map(
        (r) =>
          `{ let a = ${spread(v, "alpha", r)}; ${seq(v.piecesV)
            .map((p) => `o${r}_${p} *= a;`)
            .join(" ")} }`,
      )
      .join("\n    ")}
    ${accumulate(v, "o", "tile", "v", (col) => `v_base(b, kv_head, min(${col}, params.keys - 1u))`, v.piecesV, "params.value_dim")}
    ${barrier(v)}
  }
  ${
    v.sinks
      ? `let sink = sinks[h];
  let high = max(top, sink);
  let shrink = exp(top - high);
  total = total * shrink + exp(sink - high);
  top = high;
  let inverse = shrink / total;`
      : "let inverse = select(0.0, 1.0 / total, total > 0.0);"
  }
  ${v.lanes > 0 ? "" : `if (lane < ${ROWS}u) { rows_inverse[lane] = inverse; } workgroupBarrier();`}
  // An empty row has infinite lse: its weights exp(s - lse) are then 0 in the backward too.
  if (lane < ${ROWS}u && r0 + lane < all_rows) {
    lse[(b * params.heads + h) * params.queries + row] = select(3.0e38, top + log(total), total > 0.0);
  }
  ${seq(ROWS)
    .map(
      (r) =>
        `{ let a = ${spread(v, "inverse", r)}; ${seq(v.piecesV)
          .map((p) => `result[${r * v.piecesV + p}] = o${r}_${p} * a;`)
          .join(" ")} }`,
    )
    .join("\n  ")}
  for (var n = 0u; n < min(${ROWS}u, all_rows - r0) * ${v.piecesV}u; n++) {
    let r = n / ${v.piecesV}u;
    store_out(o_base(b, head_of(r0 + r, kv_head), query_of(r0 + r)), lane * 4u + n % ${v.piecesV}u * ${4 * L}u, result[n]);
  }
}`;
}

const backwardInputs = (v: FlashVariant): Record<string, BindingSpec> => ({
  q: bind("read", element(v.q, v.vecQK)),
  k: bind("read", element(v.k, v.vecQK)),
  v: bind("read", element(v.v, v.vecV)),
  dout: bind("read", element(v.out, v.vecV)),
  lse: bind("read", "f32"),
  delta: bind("read", "f32"),
  ...scoreBindings(v),
  ...(v.weightSums ? { sums_grad: bind("read", "f32"), sums_index: bind("read", "i32") } : {}),
});

const loaders = (v: FlashVariant): string => `
${loader("q", v.vecQK, "params.head_dim")}
${loader("k", v.vecQK, "params.head_dim")}
${loader("v", v.vecV, "params.value_dim")}
${loader("dout", v.vecV, "params.value_dim")}
// dp of one weight, with the cotangent of the weights' sums by distance.
fn weight_gradient(dp: f32, b: u32, h: u32, row: u32, at: vec2i) -> f32 {
  ${v.weightSums ? "return dp + sums_grad[((b * params.heads + h) * params.queries + row) * params.sums_rows + u32(sums_index[at.x - at.y - params.sums_min])];" : "return dp;"}
}`;

export function queryBackwardBindings(v: FlashVariant): Record<string, BindingSpec> {
  return { ...backwardInputs(v), dq: bind("write", element(v.q, v.vecQK)) };
}

/** ds = p (dp - delta) rate; dq = scale ds K. */
export function flashBackwardQuery(v: FlashVariant): string {
  const L = lanesOf(v);
  return /* wgsl */ `
${bases}
${scoreFunctions(v)}
${loaders(v)}
${storer("dq", v.q, v.vecQK, "params.head_dim")}
var<workgroup> tile: array<vec4f, ${ROWS * L}>;
var<workgroup> tile_dp: array<vec4f, ${ROWS * L}>;
${sharedDeclarations(v)}
var<private> result: array<vec4f, ${ROWS * v.piecesQK}>;
${head(v)}
  let own = min(r0 + lane % ${ROWS}u, all_rows - 1u);
  let row = query_of(own);
  let h = head_of(own, kv_head);
  let x_base = q_base(b, h, row);
  let g_base = o_base(b, h, row);
  let own_lse = lse[(b * params.heads + h) * params.queries + row];
  let own_delta = delta[(b * params.heads + h) * params.queries + row];
  ${keyRange(v, "query_of(r0)", `query_of(min(r0 + ${ROWS - 1}u, all_rows - 1u))`)}
  ${declare("dq_", v.piecesQK)}
  for (var c0 = u32(max(first_key, 0)) / ${4 * L}u * ${4 * L}u; i32(c0) < end_key; c0 += ${4 * L}u) {
    // Columns in use, by fours; not a constant, so that compilers leave the loops below as loops.
    let used = min(${L}u, (u32(end_key) - c0 + 3u) / 4u);
    ${seq(4)
      .map(
        (i) =>
          `let y_base${i} = k_base(b, kv_head, min(c0 + 4u * lane + ${i}u, params.keys - 1u)); let z_base${i} = v_base(b, kv_head, min(c0 + 4u * lane + ${i}u, params.keys - 1u));`,
      )
      .join("\n    ")}
    ${zero("s")}
    ${shareBase(v, "x_base")}
    ${product(v, "s", "q", "x_base", "k", "y_base", "params.head_dim")}
    ${toTile(v, "tile", "s", " * params.scale")}
    ${zero("dp")}
    ${v.lanes > 0 ? "" : "workgroupBarrier();"}
    ${shareBase(v, "g_base")}
    ${product(v, "dp", "dout", "g_base", "v", "z_base", "params.value_dim")}
    ${toTile(v, "tile_dp", "dp")}
    ${barrier(v)}
    if (lane < ${ROWS}u) {
      for (var t = 0u; t < used; t++) {
        let s = tile[lane * ${L}u + t];
        let dp = tile_dp[lane * ${L}u + t];
        var ds = vec4f();
        for (var i = 0u; i < 4u; i++) {
          let col = c0 + 4u * t + i;
          let at = place(b, row, col);
          if (seen(b, h, row, col, at)) {
            let y = score(s[i], b, h, row, col, at);
            ds[i] = exp(y.x - own_lse) * (weight_gradient(dp[i], b, h, row, at) - own_delta) * y.y;
          }
        }
        tile[lane * ${L}u + t] = ds;
      }
    }
    ${barrier(v)}
    ${accumulate(v, "dq_", "tile", "k", (col) => `k_base(b, kv_head, min(${col}, params.keys - 1u))`, v.piecesQK, "params.head_dim")}
    ${barrier(v)}
  }
  ${seq(ROWS)
    .map((r) =>
      seq(v.piecesQK)
        .map((p) => `result[${r * v.piecesQK + p}] = dq_${r}_${p} * params.scale;`)
        .join(" "),
    )
    .join("\n  ")}
  for (var n = 0u; n < min(${ROWS}u, all_rows - r0) * ${v.piecesQK}u; n++) {
    let r = n / ${v.piecesQK}u;
    store_dq(q_base(b, head_of(r0 + r, kv_head), query_of(r0 + r)), lane * 4u + n % ${v.piecesQK}u * ${4 * L}u, result[n]);
  }
}`;
}

export function keyBackwardBindings(v: FlashVariant): Record<string, BindingSpec> {
  return {
    ...backwardInputs(v),
    dk: bind("write", element(v.k, v.vecQK)),
    dv: bind("write", element(v.v, v.vecV)),
  };
}

/** The tile's rows are keys, its columns the queries of all heads of the group: dv = p^T dout, dk = scale ds^T q. */
export function flashBackwardKey(v: FlashVariant): string {
  const L = lanesOf(v);
  const range = ["var first_row = 0; var end_row = i32(params.queries);"];
  if (!v.positions) {
    if (v.causal) range.push("first_row = max(first_row, i32(r0) - params.offset);");
    if (v.window) {
      range.push(
        "first_row = max(first_row, i32(r0) - params.offset - min(params.window_right, 0x3fffffff));",
      );
      range.push(
        `end_row = min(end_row, i32(r0) + ${ROWS} - params.offset + min(params.window_left, 0x3fffffff));`,
      );
    }
  }
  return /* wgsl */ `
${bases}
${scoreFunctions(v)}
${loaders(v)}
${storer("dk", v.k, v.vecQK, "params.head_dim")}
${storer("dv", v.v, v.vecV, "params.value_dim")}
var<workgroup> tile: array<vec4f, ${ROWS * L}>;
var<workgroup> tile_dp: array<vec4f, ${ROWS * L}>;
${sharedDeclarations(v)}
var<private> result: array<vec4f, ${ROWS * Math.max(v.piecesQK, v.piecesV)}>;
@compute @workgroup_size(${L})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let kv_head = group.y;
  let all_rows = params.queries * params.group;
  let r0 = group.x * ${ROWS}u;
  let col = min(r0 + lane % ${ROWS}u, params.keys - 1u);
  let x_base = k_base(b, kv_head, col);
  let g_base = v_base(b, kv_head, col);
  ${range.join("\n  ")}
  let end_column = i32(params.group) * end_row;
  ${declare("dk_", v.piecesQK)}
  ${declare("dv_", v.piecesV)}
  for (var c0 = u32(max(first_row, 0)) * params.group / ${4 * L}u * ${4 * L}u; i32(c0) < end_column; c0 += ${4 * L}u) {
    let used = min(${L}u, (u32(end_column) - c0 + 3u) / 4u);
    ${seq(4)
      .map(
        (i) => `let n${i} = min(c0 + 4u * lane + ${i}u, all_rows - 1u);
    let y_base${i} = q_base(b, head_of(n${i}, kv_head), query_of(n${i})); let z_base${i} = o_base(b, head_of(n${i}, kv_head), query_of(n${i}));`,
      )
      .join("\n    ")}
    ${zero("s")}
    ${shareBase(v, "x_base")}
    ${product(v, "s", "k", "x_base", "q", "y_base", "params.head_dim")}
    ${toTile(v, "tile", "s", " * params.scale")}
    ${zero("dp")}
    ${v.lanes > 0 ? "" : "workgroupBarrier();"}
    ${shareBase(v, "g_base")}
    ${product(v, "dp", "v", "g_base", "dout", "z_base", "params.value_dim")}
    ${toTile(v, "tile_dp", "dp")}
    ${barrier(v)}
    if (lane < ${ROWS}u) {
      for (var t = 0u; t < used; t++) {
        let s = tile[lane * ${L}u + t];
        let dp = tile_dp[lane * ${L}u + t];
        var p = vec4f();
        var ds = vec4f();
        for (var i = 0u; i < 4u; i++) {
          let n = c0 + 4u * t + i;
          if (n >= all_rows) { continue; }
          let row = query_of(n);
          let h = head_of(n, kv_head);
          let at = place(b, row, col);
          if (seen(b, h, row, col, at)) {
            let y = score(s[i], b, h, row, col, at);
            let at_row = (b * params.heads + h) * params.queries + row;
            p[i] = exp(y.x - lse[at_row]);
            ds[i] = p[i] * (weight_gradient(dp[i], b, h, row, at) - delta[at_row]) * y.y;
          }
        }
        tile[lane * ${L}u + t] = p;
        tile_dp[lane * ${L}u + t] = ds;
      }
    }
    ${barrier(v)}
    ${accumulate(v, "dv_", "tile", "dout", (n) => `o_base(b, head_of(min(${n}, all_rows - 1u), kv_head), query_of(min(${n}, all_rows - 1u)))`, v.piecesV, "params.value_dim")}
    ${accumulate(v, "dk_", "tile_dp", "q", (n) => `q_base(b, head_of(min(${n}, all_rows - 1u), kv_head), query_of(min(${n}, all_rows - 1u)))`, v.piecesQK, "params.head_dim")}
    ${barrier(v)}
  }
  ${seq(ROWS)
    .map((r) =>
      seq(v.piecesQK)
        .map((p) => `result[${r * v.piecesQK + p}] = dk_${r}_${p} * params.scale;`)
        .join(" "),
    )
    .join("\n  ")}
  for (var n = 0u; n < min(${ROWS}u, params.keys - r0) * ${v.piecesQK}u; n++) {
    let r = n / ${v.piecesQK}u;
    store_dk(k_base(b, kv_head, r0 + r), lane * 4u + n % ${v.piecesQK}u * ${4 * L}u, result[n]);
  }
  ${seq(ROWS)
    .map((r) =>
      seq(v.piecesV)
        .map((p) => `result[${r * v.piecesV + p}] = dv_${r}_${p};`)
        .join(" "),
    )
    .join("\n  ")}
  for (var n = 0u; n < min(${ROWS}u, params.keys - r0) * ${v.piecesV}u; n++) {
    let r = n / ${v.piecesV}u;
    store_dv(v_base(b, kv_head, r0 + r), lane * 4u + n % ${v.piecesV}u * ${4 * L}u, result[n]);
  }
}`;
}

/** delta_i = sum_d dout_i out_i + sum_n dW_in W_in - dlse_i, one thread per row. */
export interface DeltaVariant {
  readonly out: string;
  readonly sums: boolean;
  readonly lse: boolean;
}

export function deltaBindings(v: DeltaVariant): Record<string, BindingSpec> {
  return {
    out: bind("read", v.out),
    dout: bind("read", v.out),
    ...(v.sums ? { sums: bind("read", "f32"), sums_grad: bind("read", "f32") } : {}),
    ...(v.lse ? { dlse: bind("read", "f32") } : {}),
    delta: bind("write", "f32"),
  };
}

export const deltaParams: Record<string, ParamType> = {
  o_stride: "vec4<u32>",
  heads: "u32",
  queries: "u32",
  rows: "u32",
  value_dim: "u32",
  sums_rows: "u32",
};

export function deltaText(v: DeltaVariant): string {
  return /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.rows) { return; }
  let base = dot(vec3u(i / params.queries / params.heads, i / params.queries % params.heads, i % params.queries), params.o_stride.xyz);
  var total = 0.0;
  for (var d = 0u; d < params.value_dim; d++) { total += f32(out[base + d]) * f32(dout[base + d]); }
  ${v.sums ? "for (var n = 0u; n < params.sums_rows; n++) { total += sums[i * params.sums_rows + n] * sums_grad[i * params.sums_rows + n]; }" : ""}
  ${v.lse ? "total -= dlse[i];" : ""}
  delta[i] = total;
}`;
}

/** What a reduction over the matrix of one head collects, one thread per row (or column). */
export type CollectKind = "weights" | "scores";

/**
 * Sums by distance, or the dense gradient of a bias: for each row (or key), over its line of the matrix, of p
 * ("weights") or of ds before the terms that follow ("scores"). Each thread owns its outputs.
 */
export interface CollectVariant extends FlashVariant {
  readonly collect: CollectKind;
  /** "row": lines are queries; "column": lines are keys; "dense": out[b, h, row, col]. */
  readonly line: "row" | "column" | "dense";
  /** The collected term: the derivatives of those after it enter. */
  readonly after: number;
}

export function collectBindings(v: CollectVariant): Record<string, BindingSpec> {
  const { dout, delta, sums_grad, sums_index, ...forward } = backwardInputs(v);
  return {
    ...forward,
    ...(v.collect === "scores"
      ? {
          dout: dout!,
          delta: delta!,
          ...(v.weightSums ? { sums_grad: sums_grad!, sums_index: sums_index! } : {}),
        }
      : {}),
    ...(v.line === "dense" ? {} : { line_index: bind("read", "i32") }),
    sum: "read_write f32",
  };
}

export function collectParams(v: CollectVariant): Record<string, ParamType> {
  return { ...flashParams(v), line_rows: "u32", line_min: "i32", lines: "u32" };
}

export function collectText(v: CollectVariant): string {
  const scores = v.collect === "scores";
  const outside = v.line === "column" ? "queries" : "keys";
  return /* wgsl */ `
${bases}
${scoreFunctions(v, v.after)}
${
  scores
    ? loaders(v)
    : `${loader("q", v.vecQK, "params.head_dim")}
${loader("k", v.vecQK, "params.head_dim")}`
}
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let line = id.y * groups.x * 64u + id.x;
  if (line >= params.lines) { return; }
  let extent = params.${v.line === "column" ? "keys" : "queries"};
  let b = line / extent / params.heads;
  let h = line / extent % params.heads;
  let kv_head = h / params.group;
  for (var n = 0u; n < params.${outside}; n++) {
    let row = ${v.line === "column" ? "n" : "line % extent"};
    let col = ${v.line === "column" ? "line % extent" : "n"};
    let at = place(b, row, col);
    ${v.line === "dense" ? "sum[line * params.keys + col] = 0.0;" : ""}
    if (!seen(b, h, row, col, at)) { continue; }
    let x = q_base(b, h, row);
    let y = k_base(b, kv_head, col);
    var raw = 0.0;
    for (var d = 0u; d < params.head_dim; d += 4u) { raw += dot(q4(x, d), k4(y, d)); }
    let s = score(raw * params.scale, b, h, row, col, at);
    let at_row = (b * params.heads + h) * params.queries + row;
    var value = exp(s.x - lse[at_row]);
    ${
      scores
        ? `let g = o_base(b, h, row);
    let z = v_base(b, kv_head, col);
    var dp = 0.0;
    for (var d = 0u; d < params.value_dim; d += 4u) { dp += dot(dout4(g, d), v4(z, d)); }
    value *= (weight_gradient(dp, b, h, row, at) - delta[at_row]) * s.y;`
        : ""
    }
    ${v.line === "dense" ? "sum[line * params.keys + col] = value;" : "sum[line * params.line_rows + u32(line_index[at.x - at.y - params.line_min])] += value;"}
  }
}`;
}
