import { rowElement, type BindingSpec, type RowVariant } from "@x/kernels";

/** How a row's divisor follows from its mean square (`m` squared, over the first k features) or its length. */
export type Divisor = "inside" | "outside" | "length";

export interface RowNormVariant extends RowVariant {
  /** Rows that are read together, so that each load of the weight serves all of them. */
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
  /** Rows of a batch: read once for their numbers, then once more for the output. */
  batch: "u32",
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
export const divisor = (v: RowNormVariant): string =>
  ({
    inside: "sqrt(m * m + params.eps)",
    outside: "(m + params.eps)",
    length: "max(m, K(params.eps))",
  })[v.divisor];

/** 1 for the features in the statistic, 0 for the others. */
export const inside = (v: RowNormVariant): string =>
  !v.partial
    ? ""
    : v.vec
      ? "select(T(0.0), T(1.0), vec4u(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u) < vec4u(params.k)) * "
      : "select(0.0, 1.0, i < params.k) * ";

/** Rows of a batch: as many as a subgroup has lanes, each of which holds one row's numbers; else one block. */
export const batchOf = (v: RowNormVariant): number => v.lanes || v.block;

/**
 * `T`, a piece of a row (vec4f or f32); `S`, a number for each row of a block; `K`, the numbers of a batch's rows: in
 * lane r that of row r where a subgroup takes a row, else an S. `row_sum` is the sum of an S over the lanes, `row_first` that of
 * lane 0. Loops over the rows of a block have constant bounds, so that compilers unroll them; those over a batch of
 * lanes have not, since unrolled code would not fit a processor's instruction cache. Sums are set to 0 by stores: a
 * compiler was seen to leave out the initial value of an array declared in a loop.
 */
export function rowNormPrelude(v: RowNormVariant): string {
  const S = v.block === 1 ? "f32" : `vec${String(v.block)}f`;
  const each = (f: string): string =>
    `S(${Array.from({ length: v.block }, (_, r) => `${f}(x[${String(r)}])`).join(", ")})`;
  return /* wgsl */ `
alias T = ${v.vec ? "vec4f" : "f32"};
alias E = ${rowElement(v)};
alias S = ${S};
alias K = ${v.lanes > 0 ? "f32" : "S"};
const PIECE = ${v.vec ? "4u" : "1u"};
const BLOCK = ${String(v.block)}u;
const WIDTH = ${String(v.lanes || 64)}u;
fn first(x: T) -> f32 { return ${v.vec ? "x.x" : "x"}; }
fn fold(x: T) -> f32 { return ${v.vec ? "(x.x + x.y) + (x.z + x.w)" : "x"}; }
fn first_rows(x: array<T, BLOCK>) -> S { return ${each("first")}; }
fn fold_rows(x: array<T, BLOCK>) -> S { return ${each("fold")}; }
${
  v.lanes > 0
    ? `fn row_sum(x: S, lane: u32) -> S { return subgroupAdd(x); }
fn row_first(x: S, lane: u32) -> S { return subgroupBroadcastFirst(x); }`
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
}
fn row_first(x: S, lane: u32) -> S {
  workgroupBarrier();
  if (lane == 0u) { row_partial[0] = x; }
  workgroupBarrier();
  return row_partial[0];
}`
}`;
}

/** The number of row r of a block. */
export const of = (v: RowNormVariant, name: string): string => (v.block === 1 ? name : `${name}[r]`);

/** The number of row r of a batch. */
const heldBy = (v: RowNormVariant, name: string): string =>
  v.lanes > 0 ? `subgroupShuffle(${name}, r)` : of(v, name);

export interface RowNormBody {
  /** Declarations for all rows of a group. */
  readonly group?: string;
  /** Declarations for a batch. */
  readonly batch?: string;
  /** Statements for a block of rows `block ..`, which give the S of each name in `numbers` a value `name_sum`. */
  readonly numbers: readonly string[];
  readonly block: string;
  /** What follows from a batch's numbers, each a K. */
  readonly derived: string;
  /** Statements for piece i of all rows of a batch, before and after those of each row. */
  readonly before: string;
  readonly after: string;
  /** Statements for piece i of row r, `slot` in the buffers, with the row's own `held`. */
  readonly held: readonly string[];
  readonly row: string;
  readonly end?: string;
}

/**
 * `main`: a group of lanes takes `chunk` rows in batches. A batch's rows are read for their numbers, a block at a time, and
 * once more, piece by piece, for what is written.
 */
export function rowNormMain(v: RowNormVariant, body: RowNormBody): string {
  const lanes = v.lanes > 0;
  const keep = body.numbers
    .map((name) =>
      lanes
        ? `for (var r = 0u; r < BLOCK; r++) { ${name} = select(${name}, ${of(v, `${name}_sum`)}, lane == block + r); }`
        : `${name} = ${name}_sum;`,
    )
    .join("\n      ");
  return /* wgsl */ `
@compute @workgroup_size(${String(v.lanes || 64)})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pieces = params.width / PIECE;
  let chunk = group.y * groups.x + group.x;
  let start = chunk * params.chunk;
  let stop = min(start + params.chunk, params.rows);
  ${body.group ?? ""}
  for (var row = start; row < stop; row += ${lanes ? "params.batch" : "BLOCK"}) {
    ${lanes ? "let count = min(params.batch, stop - row);" : ""}
    ${body.batch ?? ""}
    ${body.numbers.map((name) => `var ${name}: K;`).join(" ")}
    ${lanes ? "for (var block = 0u; block < count; block += BLOCK) {" : "{ let block = 0u;"}
      var at: array<u32, BLOCK>;
      for (var r = 0u; r < BLOCK; r++) { at[r] = min(row + block + r, stop - 1u) * pieces; }
      ${body.block}
      ${keep}
    }
    ${body.derived}
    for (var piece = 0u; piece < pieces; piece += WIDTH) {
      let i = min(piece + lane, pieces - 1u);
      let own = piece + lane < pieces;
      ${body.before}
      for (var r = 0u; r < ${lanes ? "count" : "BLOCK"}; r++) {
        ${body.held.map((name) => `let ${name}_r = ${heldBy(v, name)};`).join(" ")}
        if (own) {
          let slot = ${lanes ? "(row + r)" : "min(row + r, stop - 1u)"} * pieces + i;
          ${body.row}
        }
      }
      if (own) {
        ${body.after}
      }
    }
  }
  ${body.end ?? ""}
}`;
}

/** Statements for each row r of a batch, by the lane that holds its numbers or by lane 0. */
export const eachRow = (v: RowNormVariant, statement: (name: (name: string) => string) => string): string =>
  v.lanes > 0
    ? `if (lane < count) { let r = lane; ${statement((name) => name)} }`
    : `if (lane == 0u) { for (var r = 0u; r < min(BLOCK, stop - row); r++) { ${statement((name) => of(v, name))} } }`;

/**
 * A centred element of row r. The mean is kept as its distance from the row's first element, so that what is subtracted has
 * small numbers' precision, however large the mean.
 */
export const centred = (v: RowNormVariant, value: string): string =>
  v.center ? `(${value} - base_r - mean_r)` : value;

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
    // The mean's distance from the row's first element, and m.
    stats: bind("write", "vec2<f32>"),
  };
}

/**
 * Statistics in one reading, then the rows again, from the cache. Sums are of distances from the first piece that a lane
 * reads, squares of distances from the mean of the pieces so far, as it was at the last eighth piece: Welford's update
 * without a division for each element, in which neither a large mean nor a far first element costs figures.
 */
export function rowNormForward(v: RowNormVariant): string {
  const load = v.residual
    ? // The norm sees the sum as it is stored: the backward starts from there.
      `let e = E(params.residual_scale * T(residual[at[r] + i]) + T(x[at[r] + i]));
          total[at[r] + i] = e;
          let value = T(e);`
    : "let value = T(x[at[r] + i]);";
  const read = (initial: string, add: string, then = ""): string => /* wgsl */ `
      for (var r = 0u; r < BLOCK; r++) { ${initial} }
      for (var i = lane; i < ${v.partial && !v.residual ? "(params.k + PIECE - 1u) / PIECE" : "pieces"}; i += WIDTH) {
        for (var r = 0u; r < BLOCK; r++) {
          ${load}
          ${add}
        }
        ${then}
      }`;
  // The centre moves to the mean so far.
  const settle = /* wgsl */ `
        for (var r = 0u; r < BLOCK; r++) {
          let step = level[r] * (1.0 / max(n, 1.0));
          squares[r] -= level[r] * step;
          centre[r] += step;
          level[r] = T(0.0);
        }`;
  const block = v.center
    ? /* wgsl */ `var start: array<T, BLOCK>;
      var centre: array<T, BLOCK>;
      var level: array<T, BLOCK>;
      var squares: array<T, BLOCK>;
      var n = 0.0;
      ${read(
        "start[r] = T(0.0); centre[r] = T(0.0); level[r] = T(0.0); squares[r] = T(0.0);",
        `start[r] = select(start[r], value, n == 0.0);
          let d = value - start[r] - centre[r];
          level[r] += d;
          squares[r] += d * d;`,
        `n += 1.0;
        if (n % 8.0 == 0.0) { ${settle} }`,
      )}
      ${settle}
      let base_sum = row_first(first_rows(start), lane);
      for (var r = 0u; r < BLOCK; r++) { centre[r] += start[r] - ${of(v, "base_sum")}; }
      let mean_sum = row_sum(n * fold_rows(centre), lane) / f32(params.width);
      for (var r = 0u; r < BLOCK; r++) {
        let d = centre[r] - ${of(v, "mean_sum")};
        squares[r] += n * d * d;
      }
      let square_sum = row_sum(fold_rows(squares), lane);`
    : /* wgsl */ `var squares: array<T, BLOCK>;
      ${read("squares[r] = T(0.0);", `squares[r] += ${inside(v)}value * value;`)}
      let square_sum = row_sum(fold_rows(squares), lane);`;
  const shift = v.bias === undefined ? "" : " + shift";
  return /* wgsl */ `
${rowNormPrelude(v)}
${rowNormMain(v, {
  numbers: v.center ? ["base", "mean", "square"] : ["square"],
  block,
  derived: `let m = sqrt(square${v.divisor === "length" ? "" : " / f32(params.k)"});
    let scale = ${v.gain ? "gain[0]" : "1.0"} / ${divisor(v)};
    ${eachRow(v, (name) => `stats[row + r] = vec2f(${v.center ? name("mean") : "0.0"}, ${name("m")});`)}`,
  before: `${v.weight === undefined ? "" : "let factor = T(weight[i]) + params.offset;"}
      ${v.bias === undefined ? "" : "let shift = T(bias[i]);"}`,
  held: v.center ? ["base", "mean", "scale"] : ["scale"],
  row: `out[slot] = E(${centred(v, `T(${v.residual ? "total" : "x"}[slot])`)} * scale_r${v.weight === undefined ? "" : " * factor"}${shift});`,
  after: "",
})}`;
}
