import type { BindingSpec, Gpu, ParamType } from "@x/kernels";
import { scoreParams, type ScoreVariant } from "./scores.wgsl.js";

/*
 * What the tiled attention kernels share. A fragment: a kernel that includes it has workgroups of `lanesOf`
 * invocations (a subgroup of fixed size, else 32), each of which owns a tile of ROWS rows by 4 * lanes
 * columns at a time; an invocation owns four columns of the tile, and what belongs to row r lies in lane r.
 *
 * Bindings of a kernel: q, k, v, dout and the results, f32 or f16, where their strides (batch, head, token)
 * say, so that [batch, heads, tokens, dim] and [batch, tokens, heads, dim] are the same text.
 */

/** Which invocations compute a tile. */
export interface TileLanes {
  /** Lanes of a subgroup of fixed size, or 0: a workgroup of 32 without subgroup operations. */
  readonly lanes: number;
  /** The subgroup is the whole workgroup and runs as one vector thread. */
  readonly lockstep: boolean;
}

/**
 * Attention in tiles, after Dao et al. 2022 (FlashAttention) and 2023: the matrix of scores exists only as a tile of
 * ROWS rows by 4 LANES columns. A group of lanes holds ROWS rows of one operand and streams the other past them.
 * The query heads that share a key head are rows of the same tile, so keys and values are read once for all of them.
 *
 * Text is kept short on purpose: a function that reads memory is called at one place, inside a loop. Unrolled calls
 * take the software adapter many seconds to compile.
 */
export interface FlashVariant extends ScoreVariant, TileLanes {
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly out: string;
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

export const ROWS = 8;
/** Lanes without subgroups. */
const WIDTH = 32;
export function tileLanes(gpu: Gpu): TileLanes {
  const { subgroups: has, subgroupMinSize, subgroupMaxSize } = gpu.features;
  const fixed =
    has && subgroupMinSize === subgroupMaxSize && subgroupMinSize >= ROWS && subgroupMinSize <= 32;
  return { lanes: fixed ? subgroupMinSize : 0, lockstep: fixed && gpu.info.software };
}
export const lanesOf = (v: TileLanes): number => v.lanes || WIDTH;

/** Marks the place of a barrier: the tests' check for races reads it as one. */
const LOCKSTEP = "/* barrier: lockstep */";

/**
 * A barrier between the phases of a tile. A subgroup of the software adapter is one vector thread: its lanes are
 * always at the same instruction, and a barrier there (40 % of the time) orders what is ordered already.
 */
export const barrier = (v: TileLanes): string => (v.lockstep ? LOCKSTEP : "workgroupBarrier();");

/** Columns of a tile. */
export const tileColumns = (v: TileLanes): number => 4 * lanesOf(v);

export const seq = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
/** A statement for every row of a tile. */
export const eachRow = (statement: (r: number) => string): string => seq(ROWS).map(statement).join("\n    ");
export const element = (dtype: string, vec: boolean): string => (vec ? `vec4<${dtype}>` : dtype);
export const bind = (access: "read" | "write" | "read_write", type: string): BindingSpec =>
  `${access} ${type}`;

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
export function loader(name: string, vec: boolean, limit: string): string {
  return vec
    ? `fn ${name}4(base: u32, d: u32) -> vec4f { return vec4f(${name}[(base + d) / 4u]); }`
    : `fn ${name}4(base: u32, d: u32) -> vec4f {
  var x = vec4f();
  for (var i = 0u; i < 4u; i++) { if (d + i < ${limit}) { x[i] = f32(${name}[base + d + i]); } }
  return x;
}`;
}

export function storer(name: string, dtype: string, vec: boolean, limit: string): string {
  return vec
    ? `fn store_${name}(base: u32, d: u32, x: vec4f) { if (d < ${limit}) { ${name}[(base + d) / 4u] = vec4<${dtype}>(x); } }`
    : `fn store_${name}(base: u32, d: u32, x: vec4f) {
  for (var i = 0u; i < 4u; i++) { if (d + i < ${limit}) { ${name}[base + d + i] = ${dtype}(x[i]); } }
}`;
}

export const bases = /* wgsl */ `
fn q_base(b: u32, h: u32, row: u32) -> u32 { return dot(vec3u(b, h, row), params.q_stride.xyz); }
fn k_base(b: u32, h: u32, col: u32) -> u32 { return dot(vec3u(b, h, col), params.k_stride.xyz); }
fn v_base(b: u32, h: u32, col: u32) -> u32 { return dot(vec3u(b, h, col), params.v_stride.xyz); }
fn o_base(b: u32, h: u32, row: u32) -> u32 { return dot(vec3u(b, h, row), params.o_stride.xyz); }
fn head_of(r: u32, kv_head: u32) -> u32 { return kv_head * params.group + r % params.group; }`;

/** Head and query, or key, of a place among a tile's rows or columns. */
export const headAt = (place: string): string => `head_of(${place}, kv_head)`;
export const queryAt = (side: "row" | "column", place: string): string =>
  `(${side}_first + (${place}) / params.group * step)`;
export const keyAt = (side: "row" | "column", place: string): string => `(${side}_first + (${place}) * step)`;

/** Places of queries (times the heads of a group) or keys whose indices begin with `first`. */
export const placesFrom = (kind: "queries" | "keys", first: string): string =>
  `(params.${kind} - ${first} + step - 1u) / step${kind === "queries" ? " * params.group" : ""}`;

/**
 * A pattern may sort rows and columns into residue classes modulo `step`. The places of a tile then run over the
 * classes one after another, `span` places for each; in natural order there is one class.
 */
export const spans = (v: FlashVariant, rows: "queries" | "keys"): string => {
  if (!v.ordered) return "let step = 1u; let row_span = 0xffffffffu; let column_span = 0xffffffffu;";
  const at = rows === "queries" ? 1 : 3;
  return `
  let order = params.order + i32(kv_head) * params.order_stride;
  let step = u32(ints[order]);
  let row_span = u32(ints[order + ${at}]);
  let column_span = u32(ints[order + ${at + 1}]);`;
};

/**
 * The workgroup's rows: places r0 .. row_end - 1 of the class row_first. Rows of queries count the heads of a group
 * fastest: place = query * group + head in the group.
 */
export const tileRows = (v: FlashVariant, rows: "queries" | "keys"): string => `
  ${spans(v, rows)}
  let row_first = group.x * ${ROWS}u / row_span;
  let r0 = group.x * ${ROWS}u % row_span;
  let row_end = select(0u, ${placesFrom(rows, "row_first")}, row_first < min(step, params.${rows}));
  if (r0 >= row_end) { return; }`;

/** Row r's value of something that lane r holds. */
export const spread = (v: TileLanes, value: string, row: number): string =>
  v.lanes > 0 ? `subgroupBroadcast(${value}, ${row}u)` : `rows_${value}[${row}]`;

/** Without subgroups, what lane r holds goes through workgroup memory; a barrier must follow. */
export const share = (v: TileLanes, ...values: string[]): string =>
  v.lanes > 0
    ? ""
    : `if (lane < ${ROWS}u) { ${values.map((value) => `rows_${value}[lane] = ${value};`).join(" ")} }`;

export const shareBase = (v: TileLanes, base: string): string =>
  v.lanes > 0 ? "" : `if (lane < ${ROWS}u) { shared_base[lane] = ${base}; } workgroupBarrier();`;

export const sharedDeclarations = (v: TileLanes, ...rows: string[]): string =>
  v.lanes > 0
    ? ""
    : [
        `var<workgroup> shared_base: array<u32, ${ROWS}>;`,
        ...rows.map((name) => `var<workgroup> rows_${name}: array<f32, ${ROWS}>;`),
      ].join("\n");

/**
 * acc_r += X[r, :] . Y[c, :] for the tile's rows r and this lane's four columns c, over `limit` features. Lane r
 * loads row r of X; `xBase` is its base, `y<i>` the bases of the four columns.
 */
export function product(
  v: TileLanes,
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

/** What a sum over a tile does to a cell, to make a factor of it, and to the loaded w<piece>. */
export interface Guard {
  readonly weight: (cell: string) => string;
  readonly loaded: string;
}

/**
 * acc_{r,p} += sum_c tile[r, c] Y[c, columns of this lane]. A plain loop over the columns: unrolled text would run
 * no faster and take the software adapter seconds to compile.
 */
export function accumulate(
  v: TileLanes,
  acc: string,
  tile: string,
  y: string,
  yBase: (col: string) => string,
  pieces: number,
  limit: string,
  guard: Guard = { weight: (c) => c, loaded: "" },
): string {
  const L = lanesOf(v);
  const value = (r: number): string =>
    v.lanes > 0 ? `subgroupBroadcast(p_own, ${r}u)` : guard.weight(`${tile}[${r * L}u + c / 4u][c % 4u]`);
  return /* wgsl */ `
    for (var c = 0u; c < 4u * used; c++) {
      let base = ${yBase("c0 + c")};
      ${v.lanes > 0 ? `let p_own = ${guard.weight(`${tile}[(lane % ${ROWS}u) * ${L}u + c / 4u][c % 4u]`)};` : ""}
      ${seq(pieces)
        .map(
          (p) =>
            `${guard.loaded === "" ? "let" : "var"} w${p} = ${y}4(base, min(lane * 4u + ${p * 4 * L}u, ${limit} - 1u));`,
        )
        .join("\n      ")}
      ${guard.loaded}
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

export const declare = (name: string, pieces: number): string =>
  seq(ROWS)
    .flatMap((r) => seq(pieces).map((p) => `var ${name}${r}_${p} = vec4f();`))
    .join(" ");
export const zero = (name: string): string =>
  seq(ROWS)
    .map((r) => `var ${name}${r} = vec4f();`)
    .join(" ");
export const toTile = (v: TileLanes, tile: string, name: string, factor = ""): string =>
  eachRow((r) => `${tile}[${r * lanesOf(v)}u + lane] = ${name}${r}${factor};`);
/**
 * On a GPU the lanes of a subgroup share each row, four columns a lane; where a subgroup is a CPU's vector thread, or
 * there is none, lane r goes along row r, which takes no more steps there and is less text to compile.
 */
export const sharesRows = (v: TileLanes): boolean => v.lanes > 0 && !v.lockstep;

/** Column c of row r. */
export const cell = (v: TileLanes, tile: string): string => `${tile}[r * ${lanesOf(v)}u + c / 4u][c % 4u]`;

/** The cell that the body of `eachCell` is at: where lanes share rows, within the four that are this lane's alone. */
export const ownCell = (v: TileLanes, tile: string): string =>
  sharesRows(v) ? `${tile}[r * ${lanesOf(v)}u + lane][i]` : cell(v, tile);

/** `body` for every cell of the tile (`ownCell`), with its r and c; of the values in `held`, lane r has row r's. */
export const eachCell = (v: TileLanes, held: readonly string[], body: string): string =>
  sharesRows(v)
    ? /* wgsl */ `
    for (var r = 0u; r < ${ROWS}u; r++) {
      ${held.map((name) => `let ${name} = subgroupShuffle(${name}, r);`).join(" ")}
      for (var i = 0u; i < 4u; i++) {
        let c = 4u * lane + i;
        ${body}
      }
    }`
    : /* wgsl */ `
    if (lane < ${ROWS}u) {
      let r = lane;
      for (var c = 0u; c < 4u * used; c++) {
        ${body}
      }
    }`;
