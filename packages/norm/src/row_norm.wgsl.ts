import { rowElement, type BindingSpec, type RowVariant } from "@x/kernels";

/** How a row's divisor follows from its mean square (`m` squared, over the first k features) or its length. */
export type Divisor = "inside" | "outside" | "length";

export interface RowNormVariant extends RowVariant {
  /** Rows that a group takes together, so that each load of the weight serves all of them. */
  readonly block: 1 | 2 | 4;
  readonly center: boolean;
  readonly divisor: Divisor;
  readonly weight: string | undefined;
  readonly bias: string | undefined;
  /** One factor for all features: ScaleNorm's g. */
  readonly gain: boolean;
  /** Only the first k features enter the statistic. */
  readonly partial: boolean;
  /** x is first added to residualScale residual; the sum is an output too. */
  readonly residual: boolean;
}

export const rowNormParams = {
  rows: "u32",
  width: "u32",
  /** Rows of a group. */
  chunk: "u32",
  /** Features in the statistic. */
  k: "u32",
  eps: "f32",
  /** Added to the weight: 1 where it is stored as a difference from 1. */
  offset: "f32",
  residual_scale: "f32",
} as const;

export const bind = (access: "read" | "write" | "read_write", element: string): BindingSpec =>
  `${access} ${element}`;

/** r(m): what a row is divided by. */
export const divisor = (v: RowNormVariant, m: string): string =>
  ({
    inside: `sqrt(${m} * ${m} + params.eps)`,
    outside: `${m} + params.eps`,
    length: `max(${m}, params.eps)`,
  })[v.divisor];

/** 1 for the features in the statistic, 0 for the others. */
export const inside = (v: RowNormVariant): string =>
  !v.partial
    ? ""
    : v.vec
      ? "select(T(0.0), T(1.0), vec4u(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u) < vec4u(params.k)) * "
      : "select(0.0, 1.0, i < params.k) * ";

/**
 * `T`, a piece of a row (vec4f or f32); `S`, a number for each row of a block; `row_sum`, the sum of an S over the
 * lanes; loops over r have constant bounds, so that compilers unroll them. Sums are set to 0 by stores: a compiler was seen to
 * leave out the initial value of an array declared in a loop.
 */
export function rowNormPrelude(v: RowNormVariant): string {
  const S = v.block === 1 ? "f32" : `vec${String(v.block)}f`;
  const folds = Array.from({ length: v.block }, (_, r) => `fold(x[${String(r)}])`).join(", ");
  const lanes = v.lanes || 64;
  return /* wgsl */ `
alias T = ${v.vec ? "vec4f" : "f32"};
alias E = ${rowElement(v)};
alias S = ${S};
const PIECE = ${v.vec ? "4u" : "1u"};
const BLOCK = ${String(v.block)}u;
const WIDTH = ${String(lanes)}u;
fn fold(x: T) -> f32 { return ${v.vec ? "(x.x + x.y) + (x.z + x.w)" : "x"}; }
fn fold_rows(x: array<T, BLOCK>) -> S { return S(${folds}); }
${
  v.lanes > 0
    ? "fn row_sum(x: S, lane: u32) -> S { return subgroupAdd(x); }"
    : `var<workgroup> row_partial: array<S, 64>;
fn row_sum(x: S, lane: u32) -> S {
  workgroupBarrier();
  row_partial[lane] = x;
  for (var half = 32u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { row_partial[lane] += row_partial[lane + half]; }
  }
  workgroupBarrier();
  return row_partial[0];
}`
}`;
}

/** The number of row r of a block. */
export const of = (v: RowNormVariant, name: string): string => (v.block === 1 ? name : `${name}[r]`);

/**
 * `main`: a group of lanes takes `chunk` rows, `block` at a time; `at[r]` is the first piece of row r, that of
 * the last row where a block is not full.
 */
export function rowNormMain(v: RowNormVariant, body: string, end = ""): string {
  return /* wgsl */ `
@compute @workgroup_size(${String(v.lanes || 64)})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pieces = params.width / PIECE;
  let chunk = group.y * groups.x + group.x;
  let start = chunk * params.chunk;
  let stop = min(start + params.chunk, params.rows);
  ${end === "" ? "" : "var total_gain = 0.0;"}
  for (var row = start; row < stop; row += BLOCK) {
    var at: array<u32, BLOCK>;
    for (var r = 0u; r < BLOCK; r++) { at[r] = min(row + r, stop - 1u) * pieces; }
    ${body}
  }
  ${end}
}`;
}

export function forwardBindings(v: RowNormVariant): Record<string, BindingSpec> {
  return {
    x: bind("read", rowElement(v)),
    ...(v.residual
      ? { residual: bind("read", rowElement(v)), total: bind("read_write", rowElement(v)) }
      : {}),
    ...(v.weight === undefined ? {} : { weight: bind("read", rowElement(v, v.weight)) }),
    ...(v.bias === undefined ? {} : { bias: bind("read", rowElement(v, v.bias)) }),
    ...(v.gain ? { gain: bind("read", "f32") } : {}),
    out: bind("write", rowElement(v)),
    stats: bind("write", "vec2<f32>"),
  };
}

/** Statistics in one reading, by Welford's updates where there is a mean; then the rows again, from the cache. */
export function rowNormForward(v: RowNormVariant): string {
  const x = v.residual ? "T(total[at[r] + i])" : "T(x[at[r] + i])";
  const load = v.residual
    ? // The norm sees the sum as it is stored: the backward starts from there.
      `let e = E(params.residual_scale * T(residual[at[r] + i]) + T(x[at[r] + i]));
        total[at[r] + i] = e;
        let value = T(e);`
    : `let value = ${x};`;
  const statistics = v.center
    ? `var centre: array<T, BLOCK>;
    for (var r = 0u; r < BLOCK; r++) { centre[r] = T(0.0); }
    var count = 0.0;
    for (var i = lane; i < pieces; i += WIDTH) {
      count += 1.0;
      let share = 1.0 / count;
      for (var r = 0u; r < BLOCK; r++) {
        ${load}
        let d = value - centre[r];
        centre[r] += d * share;
        square[r] += d * (value - centre[r]);
      }
    }
    let mean = row_sum(count * fold_rows(centre), lane) / f32(pieces * PIECE);
    for (var r = 0u; r < BLOCK; r++) { let d = centre[r] - ${of(v, "mean")}; square[r] += count * d * d; }`
    : `let mean = S(0.0);
    for (var i = lane; i < pieces; i += WIDTH) {
      for (var r = 0u; r < BLOCK; r++) {
        ${load}
        square[r] += ${inside(v)}value * value;
      }
    }`;
  const factor = v.weight === undefined ? "" : " * factor";
  return /* wgsl */ `
${rowNormPrelude(v)}
${rowNormMain(
  v,
  `var square: array<T, BLOCK>;
    for (var r = 0u; r < BLOCK; r++) { square[r] = T(0.0); }
    ${statistics}
    let m = sqrt(row_sum(fold_rows(square), lane)${v.divisor === "length" ? "" : " / f32(params.k)"});
    let scale = ${v.gain ? "gain[0]" : "1.0"} / (${divisor(v, "m").replace("max(m, params.eps)", "max(m, S(params.eps))")});
    for (var i = lane; i < pieces; i += WIDTH) {
      ${v.weight === undefined ? "" : "let factor = T(weight[i]) + params.offset;"}
      ${v.bias === undefined ? "" : "let shift = T(bias[i]);"}
      for (var r = 0u; r < BLOCK; r++) {
        out[at[r] + i] = E((${x} - ${of(v, "mean")}) * ${of(v, "scale")}${factor}${v.bias === undefined ? "" : " + shift"});
      }
    }
    if (lane == 0u) {
      for (var r = 0u; r < BLOCK; r++) { stats[min(row + r, stop - 1u)] = vec2f(${of(v, "mean")}, ${of(v, "m")}); }
    }`,
)}`;
}
