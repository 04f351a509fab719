import { foldLanes, groupMain, rowElement, type BindingSpec, type RowVariant } from "@x/kernels";

/*
 * A norm over the last axis, forward, and the frame of rows that its backward shares.
 *
 * A workgroup (a subgroup where the adapter has one of fixed size, else 64 invocations) owns `chunk`
 * neighbouring rows, which it takes in batches and reads in blocks of 1, 2 or 4. An invocation owns every
 * WIDTH-th piece of each row: four features where the width is a multiple of four, else one. Grid: ceil(rows
 * / chunk) workgroups, folded into two axes.
 *
 * Bindings, with x seen as [rows, width]: x, residual, total, out [rows, width], f32 or f16; weight, bias
 * [width], f32 or f16; gain [1] f32; stats [rows] of vec2 f32: the mean less the row's first element, and m.
 * Each optional one is bound only where the variant has it.
 */

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
      ? "select(T(0.0), T(1.0), 4u * i + vec4u(0u, 1u, 2u, 3u) < vec4u(params.k)) * "
      : "select(0.0, 1.0, i < params.k) * ";

/** Rows of a batch: as many as a subgroup has lanes, each of which holds one row's numbers; else one block. */
export const batchOf = (v: RowNormVariant): number => v.lanes || v.block;

/** An S from what each row of a block has. */
const ofBlock = (v: RowNormVariant, number: (r: string) => string): string =>
  `S(${Array.from({ length: v.block }, (_, r) => number(`${String(r)}u`)).join(", ")})`;

/** A K from what each row of a batch has. */
export const ofBatch = (v: RowNormVariant, number: (r: string) => string): string =>
  v.lanes > 0 ? number("lane") : ofBlock(v, number);

/**
 * `T`, a piece of a row (vec4f or f32); `S`, a number for each row of a block; `K`, the numbers of a batch's rows: in
 * lane r that of row r where a subgroup takes a row, else an S. `row_sum` is the sum of an S over the lanes, `row_first`
 * that of lane 0; `pick` and `held` are the number of row r, `keep` puts those of a block with a batch's. Loops over the
 * rows of a block have constant bounds, so that compilers unroll them; those over a batch of lanes have not, since
 * unrolled code would not fit a processor's instruction cache. Sums are set to 0 by stores: a compiler was seen to
 * leave out the initial value of an array declared in a loop.
 */
export function rowNormPrelude(v: RowNormVariant): string {
  const one = v.block === 1;
  const element = one ? "x" : "x[r]";
  return /* wgsl */ `
alias T = ${v.vec ? "vec4f" : "f32"};
alias E = ${rowElement(v)};
alias S = ${one ? "f32" : `vec${String(v.block)}f`};
alias K = ${v.lanes > 0 ? "f32" : "S"};
const PIECE = ${v.vec ? "4u" : "1u"};
const BLOCK = ${String(v.block)}u;
const WIDTH = ${String(v.lanes || 64)}u;
// A row of zeros at eps 0 stays a row of zeros, and so does its gradient.
fn reciprocal(r: K) -> K { return select(1.0 / r, K(0.0), r == K(0.0)); }
fn first(x: T) -> f32 { return ${v.vec ? "x.x" : "x"}; }
fn fold(x: T) -> f32 { return ${v.vec ? "(x.x + x.y) + (x.z + x.w)" : "x"}; }
fn first_rows(x: array<T, BLOCK>) -> S { return ${ofBlock(v, (r) => `first(x[${r}])`)}; }
fn fold_rows(x: array<T, BLOCK>) -> S { return ${ofBlock(v, (r) => `fold(x[${r}])`)}; }
fn pick(x: S, r: u32) -> f32 { return ${element}; }
${
  v.lanes > 0
    ? `fn row_sum(x: S, lane: u32) -> S { return subgroupAdd(x); }
fn held(x: K, r: u32) -> f32 { return subgroupShuffle(x, r); }
fn keep(x: K, y: S, block: u32, lane: u32) -> K {
  var z = x;
  for (var r = 0u; r < BLOCK; r++) { z = select(z, pick(y, r), lane == block + r); }
  return z;
}`
    : `var<workgroup> row_partial: array<S, 64>;
fn row_sum(x: S, lane: u32) -> S {
  workgroupBarrier();
  row_partial[lane] = x;
${foldLanes("row_partial")}
  workgroupBarrier();
  return row_partial[0];
}
fn held(x: K, r: u32) -> f32 { return ${element}; }
fn keep(x: K, y: S, block: u32, lane: u32) -> K { return y; }`
}
fn row_first(x: S, lane: u32) -> S { return row_sum(select(S(0.0), x, lane == 0u), lane); }`;
}

export interface RowNormBody {
  /** Declarations for a batch, before its rows are read. */
  readonly batch?: string;
  /** Statements for the rows `at` of a block, which give each of `numbers` an S of its name and `_sum`. */
  readonly numbers: readonly string[];
  readonly block: string;
  /** What follows from a batch's numbers, each a K. */
  readonly derived: string;
  /** Statements for piece i of all rows of a batch, before and after those of each row. */
  readonly before: string;
  readonly after?: string;
  /** Statements for piece i of row r, `slot` in the buffers, with the numbers of `held` as `_r`. */
  readonly held: readonly string[];
  readonly row: string;
  /** Declarations and statements around all batches. */
  readonly start?: string;
  readonly end?: string;
}

/**
 * `main`: a group of lanes takes `chunk` rows in batches. A batch's rows are read for their numbers, a block at a time, and
 * once more, piece by piece, for what is written.
 */
export function rowNormMain(v: RowNormVariant, body: RowNormBody): string {
  const { batch = "", after = "", start = "", end = "" } = body;
  const each = (names: readonly string[], f: (name: string) => string): string => names.map(f).join(" ");
  return /* wgsl */ `
${groupMain("chunk", undefined, v.lanes || 64)}
  let pieces = params.width / PIECE;
  let start = chunk * params.chunk;
  let stop = min(start + params.chunk, params.rows);
  ${start}
  for (var row = start; row < stop; row += params.batch) {
    let count = min(params.batch, stop - row);
    ${batch}
    ${each(body.numbers, (name) => `var ${name}: K;`)}
    for (var block = 0u; block < count; block += BLOCK) {
      var at: array<u32, BLOCK>;
      for (var r = 0u; r < BLOCK; r++) { at[r] = min(row + block + r, stop - 1u) * pieces; }
      ${body.block}
      ${each(body.numbers, (name) => `${name} = keep(${name}, ${name}_sum, block, lane);`)}
    }
    ${body.derived}
    for (var piece = 0u; piece < pieces; piece += WIDTH) {
      let i = min(piece + lane, pieces - 1u);
      let mine = piece + lane < pieces;
      ${body.before}
      for (var r = 0u; r < ${v.lanes > 0 ? "count" : "BLOCK"}; r++) {
        ${each(body.held, (name) => `let ${name}_r = held(${name}, r);`)}
        if (mine && r < count) {
          let slot = (row + r) * pieces + i;
          ${body.row}
        }
      }
      if (mine) { ${after} }
    }
  }
  ${end}
}`;
}

/**
 * A centred element of row r. The mean is kept as its distance from the row's first element, so that what is subtracted has
 * small numbers' precision, however large the mean.
 */
export const centred = (v: RowNormVariant, value: string): string =>
  v.center ? `(${value} - base_r - mean_r)` : value;

/** The entries that the variant has. */
export const present = <V>(all: Readonly<Record<string, V | false | "" | undefined>>): Record<string, V> =>
  Object.fromEntries(Object.entries(all).filter(([, value]) => value)) as Record<string, V>;

export function forwardBindings(v: RowNormVariant): Record<string, BindingSpec> {
  const element = rowElement(v);
  return present({
    x: bind("read", element),
    residual: v.residual && bind("read", element),
    total: v.residual && bind("read_write", element),
    weight: v.weight && bind("read", rowElement(v, v.weight)),
    bias: v.bias && bind("read", rowElement(v, v.bias)),
    gain: v.gain && "read f32",
    out: bind("write", element),
    // The mean's distance from the row's first element, and m.
    stats: "write vec2<f32>",
  });
}

/**
 * Statistics in one reading, then the rows again, from the cache. Sums are of distances from the first piece that a lane
 * reads, squares of distances from the mean of the pieces so far, as it was at the last eighth piece: Welford's update
 * without a division for each element, in which neither a large mean nor a far first element costs precision.
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
          let step = level[r] / max(n, 1.0);
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
      for (var r = 0u; r < BLOCK; r++) { centre[r] += start[r] - pick(base_sum, r); }
      let mean_sum = row_sum(n * fold_rows(centre), lane) / f32(params.width);
      for (var r = 0u; r < BLOCK; r++) {
        let d = centre[r] - pick(mean_sum, r);
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
    let scale = ${v.gain ? "gain[0] * " : ""}reciprocal(${divisor(v)});
    let left = vec2f(${v.center ? "held(mean, lane % params.batch)" : "0.0"}, held(m, lane % params.batch));
    if (lane < count) { stats[row + lane] = left; }`,
  before: `${v.weight === undefined ? "" : "let factor = T(weight[i]) + params.offset;"}
      ${v.bias === undefined ? "" : "let shift = T(bias[i]);"}`,
  held: v.center ? ["base", "mean", "scale"] : ["scale"],
  row: `out[slot] = E(${centred(v, `T(${v.residual ? "total" : "x"}[slot])`)} * scale_r${v.weight === undefined ? "" : " * factor"}${shift});`,
})}`;
}
