import { moduli, usesHead, verdict, type Rule, type Strided, type Verdict } from "./rule.js";

/** Rows of a matrix in the order in which they are visited: runs of positions a stride apart. */
export interface Order {
  /** Stride of neighbours; 1 is the natural order. */
  readonly stride: number;
  readonly runs: readonly { readonly start: number; readonly first: number; readonly count: number }[];
}

/** Positions first .. first + count - 1 sorted by their residue modulo the stride. */
export function orderBy(stride: number, first: number, count: number): Order {
  if (stride === 1) return { stride, runs: [{ start: 0, first, count }] };
  const runs: { start: number; first: number; count: number }[] = [];
  let start = 0;
  for (let residue = 0; residue < stride; residue++) {
    const at = first + ((((residue - first) % stride) + stride) % stride);
    const n = Math.ceil((first + count - at) / stride);
    if (n <= 0) continue;
    runs.push({ start, first: at, count: n });
    start += n;
  }
  return { stride, runs };
}

/** Every position of an order, in it. */
export function positionsOf({ stride, runs }: Order): Int32Array {
  const out = new Int32Array(runs.reduce((n, run) => n + run.count, 0));
  for (const { start, first, count } of runs)
    for (let n = 0; n < count; n++) out[start + n] = first + n * stride;
  return out;
}

/** The strided intervals of places from .. to - 1 of an order. */
function cut({ stride, runs }: Order, from: number, to: number): Strided[] {
  const out: Strided[] = [];
  let low = 0;
  let high = runs.length - 1;
  while (low < high) {
    const mid = (low + high + 1) >> 1;
    if (runs[mid]!.start <= from) low = mid;
    else high = mid - 1;
  }
  for (let n = low; n < runs.length && runs[n]!.start < to; n++) {
    const run = runs[n]!;
    const a = Math.max(from, run.start) - run.start;
    const b = Math.min(to - run.start, run.count) - 1;
    if (a > b) continue;
    const [lo, hi] = [run.first + a * stride, run.first + b * stride];
    out.push({ lo, hi, step: lo === hi ? 0 : stride });
  }
  return out;
}

/** Whether any pair of a block is seen, exactly. */
function any(rule: Rule, h: number, i: Strided, j: Strided): boolean {
  const v = verdict(rule, h, i, j);
  if (v !== "some") return v === "all";
  const length = (x: Strided): number => (x.step === 0 ? 1 : (x.hi - x.lo) / x.step + 1);
  const halves = (x: Strided): [Strided, Strided] => {
    const mid = x.lo + (Math.ceil(length(x) / 2) - 1) * x.step;
    const part = (lo: number, hi: number): Strided => ({ lo, hi, step: lo === hi ? 0 : x.step });
    return [part(x.lo, mid), part(mid + x.step, x.hi)];
  };
  if (i.step === 0 && j.step === 0) return false;
  if (length(i) >= length(j)) return halves(i).some((half) => any(rule, h, half, j));
  return halves(j).some((half) => any(rule, h, i, half));
}

/** Blocks begin .. end - 1 of a row of blocks; `whole` if every pair of them is seen. */
export interface Run {
  readonly begin: number;
  end: number;
  readonly whole: boolean;
}

/** One side of a matrix cut into blocks. */
export interface Side {
  readonly order: Order;
  /** Rows in all. */
  readonly count: number;
  /** Rows of a block, and how many neighbouring rows stand at one position (the heads of a group). */
  readonly block: number;
  readonly shared: number;
}

const blocksOf = (side: Side): number => Math.ceil((side.count * side.shared) / side.block);

/** The strided intervals that blocks from .. to - 1 of a side cover. */
function cover(side: Side, from: number, to: number): Strided[] {
  const [a, b] = [from * side.block, Math.min(to * side.block, side.count * side.shared)];
  return cut(side.order, Math.floor(a / side.shared), Math.floor((b - 1) / side.shared) + 1);
}

/**
 * The blocks with a visible pair, for each row of blocks: found by halving the matrix, so that the work follows the
 * blocks on the edges of the pattern and not its area. `rows` are queries unless `transposed`.
 */
export function visits(
  rule: Rule,
  heads: readonly number[],
  rows: Side,
  columns: Side,
  transposed: boolean,
): Run[][] {
  const [R, C] = [blocksOf(rows), blocksOf(columns)];
  const out: Run[][] = Array.from({ length: R }, () => []);
  const judge = (is: readonly Strided[], js: readonly Strided[]): Verdict => {
    let [all, none] = [true, true];
    for (const h of heads)
      for (const i of is)
        for (const j of js) {
          const v = transposed ? verdict(rule, h, j, i) : verdict(rule, h, i, j);
          all &&= v === "all";
          none &&= v === "none";
          if (!all && !none) return "some";
        }
    return all ? "all" : "none";
  };
  const emit = (row: number, begin: number, end: number, whole: boolean): void => {
    const list = out[row]!;
    const last = list.at(-1);
    if (last?.end === begin && last.whole === whole) last.end = end;
    else list.push({ begin, end, whole });
  };
  // A last block that the matrix does not fill is never whole: its rest must be hidden.
  const full = Math.floor((columns.count * columns.shared) / columns.block);
  const walk = (r0: number, r1: number, c0: number, c1: number): void => {
    if (r0 >= r1 || c0 >= c1) return;
    const single = r1 - r0 === 1 && c1 - c0 === 1;
    const [is, js] = [cover(rows, r0, r1), cover(columns, c0, c1)];
    if (single || is.length * js.length * heads.length <= 16) {
      const v = judge(is, js);
      if (v === "none") return;
      if (v === "all") {
        for (let r = r0; r < r1; r++) {
          if (c0 < full) emit(r, c0, Math.min(c1, full), true);
          if (c1 > full) emit(r, full, c1, false);
        }
        return;
      }
    }
    if (single) {
      const seen = heads.some((h) =>
        is.some((i) => js.some((j) => (transposed ? any(rule, h, j, i) : any(rule, h, i, j)))),
      );
      if (seen) emit(r0, c0, c1, false);
    } else if (r1 - r0 > 1 && (r1 - r0) * rows.block >= (c1 - c0) * columns.block) {
      const mid = (r0 + r1) >> 1;
      walk(r0, mid, c0, c1);
      walk(mid, r1, c0, c1);
    } else if (c1 - c0 > 1) {
      const mid = (c0 + c1) >> 1;
      walk(r0, r1, c0, mid);
      walk(r0, r1, mid, c1);
    } else {
      const mid = (r0 + r1) >> 1;
      walk(r0, mid, c0, c1);
      walk(mid, r1, c0, c1);
    }
  };
  walk(0, R, 0, C);
  return out;
}

export const countBlocks = (lists: readonly (readonly Run[])[]): number =>
  lists.reduce((sum, list) => sum + list.reduce((n, run) => n + run.end - run.begin, 0), 0);

/** Blocks of one group of heads in the order that visits fewest: natural, or by the residue of one of the moduli. */
export function bestStride(
  rule: Rule,
  heads: readonly number[],
  sides: (stride: number) => { rows: Side; columns: Side },
): { stride: number; lists: Run[][] } {
  const candidates = new Set<number>();
  for (const h of heads) moduli(rule, h, candidates);
  let best: { stride: number; lists: Run[][]; blocks: number } | undefined;
  for (const stride of [1, ...[...candidates].filter((n) => n > 1 && n <= 64)]) {
    const { rows, columns } = sides(stride);
    const lists = visits(rule, heads, rows, columns, false);
    const blocks = countBlocks(lists);
    // Sorted rows are not neighbours in memory: they must save something.
    if (!best || blocks < 0.9 * best.blocks) best = { stride, lists, blocks };
  }
  return best!;
}

export { usesHead };
