import { moduli, usesHead, verdict, type Rule, type Strided, type Verdict } from "./rule.js";

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

/**
 * Blocks begin .. end - 1 of a row of blocks; `whole` if every pair of them is seen. Nothing is seen in the first `skip`
 * columns and the last `spare` ones.
 */
export interface Run {
  readonly begin: number;
  end: number;
  readonly whole: boolean;
  readonly skip: number;
  spare: number;
}

/** `skip` and `spare` are multiples of this. */
const GRAIN = 4;

/**
 * One side of a matrix, cut into blocks: positions first .. first + count - 1, with so many rows at each (the heads of a
 * group). Rows are sorted by the residue of their index modulo the stride, and each class of them begins a new block, so
 * that within a block positions are a stride apart.
 */
export interface Side {
  readonly stride: number;
  readonly first: number;
  readonly count: number;
  /** Rows of a block, and how many neighbouring rows stand at one position. */
  readonly block: number;
  readonly shared: number;
}

/** Blocks that each class of rows takes. */
export const blocksOfClass = ({ stride, count, block, shared }: Side): number =>
  Math.ceil((Math.ceil(count / stride) * shared) / block);

export const blocksOf = (side: Side): number => Math.min(side.stride, side.count) * blocksOfClass(side);

/** Positions of a class. */
const lengthOf = ({ stride, count }: Side, residue: number): number => Math.ceil((count - residue) / stride);

/** The strided intervals that places from .. to - 1 of a side cover. */
function cover(side: Side, from: number, to: number): Strided[] {
  const { stride, first, block, shared } = side;
  const span = blocksOfClass(side) * block;
  const out: Strided[] = [];
  for (let residue = Math.floor(from / span); residue * span < to; residue++) {
    const [a, b] = [Math.max(from - residue * span, 0), Math.min(to - residue * span, span)];
    const low = Math.floor(a / shared);
    const high = Math.min(Math.floor((b - 1) / shared), lengthOf(side, residue) - 1);
    if (low > high) continue;
    const at = (n: number): number => first + residue + n * stride;
    out.push({ lo: at(low), hi: at(high), step: low === high ? 0 : stride });
  }
  return out;
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
  const span = blocksOfClass(columns);
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
    return all && !none ? "all" : "none";
  };
  const seen = (is: readonly Strided[], js: readonly Strided[]): boolean =>
    heads.some((h) => is.some((i) => js.some((j) => (transposed ? any(rule, h, j, i) : any(rule, h, i, j)))));
  const emit = (row: number, begin: number, end: number, whole: boolean, skip = 0, spare = 0): void => {
    const list = out[row]!;
    const last = list.at(-1);
    if (last?.end === begin && last.whole === whole && last.spare + skip === 0 && begin % span > 0) {
      last.end = end;
      last.spare = spare;
    } else list.push({ begin, end, whole, skip, spare });
  };
  /** Columns of a block that are seen. */
  const emitSome = (row: number, is: readonly Strided[], block: number): void => {
    const [start, end] = [block * columns.block, (block + 1) * columns.block];
    let [a, b] = [start, end];
    while (a < b && !seen(is, cover(columns, a, a + GRAIN))) a += GRAIN;
    while (b > a && !seen(is, cover(columns, b - GRAIN, b))) b -= GRAIN;
    if (a < b) emit(row, block, block + 1, false, a - start, end - b);
  };
  // A block that its class does not fill is never whole: its rest must be hidden. A shorter class may end a block early.
  const emitAll = (row: number, begin: number, end: number): void => {
    for (let residue = Math.floor(begin / span); residue * span < end; residue++) {
      const start = residue * span;
      const filled = (lengthOf(columns, residue) * columns.shared) / columns.block;
      const full = start + Math.floor(filled);
      const [a, b] = [Math.max(begin, start), Math.min(end, start + Math.ceil(filled))];
      if (a < Math.min(b, full)) emit(row, a, Math.min(b, full), true);
      if (b > Math.max(a, full)) emit(row, Math.max(a, full), b, false);
    }
  };
  const walk = (r0: number, r1: number, c0: number, c1: number): void => {
    if (r0 >= r1 || c0 >= c1) return;
    const single = r1 - r0 === 1 && c1 - c0 === 1;
    const is = cover(rows, r0 * rows.block, r1 * rows.block);
    const js = cover(columns, c0 * columns.block, c1 * columns.block);
    if (single || is.length * js.length * heads.length <= 16) {
      const v = judge(is, js);
      if (v === "none") return;
      if (v === "all") {
        for (let r = r0; r < r1; r++)
          if (cover(rows, r * rows.block, (r + 1) * rows.block).length > 0) emitAll(r, c0, c1);
        return;
      }
    }
    if (single) emitSome(r0, is, c0);
    else if (r1 - r0 > 1 && (r1 - r0) * rows.block >= (c1 - c0) * columns.block) {
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
