/**
 * The one definition of a pattern: an expression of the head h, the query's position i and the key's position j. The
 * host evaluates it for a pair and, over strided intervals, for whole blocks of pairs; `rule.wgsl.ts` writes it as a
 * predicate.
 */
export type Int =
  | { readonly op: "head" | "query" | "key" }
  | { readonly op: "const"; readonly value: number }
  /** A number for each head. */
  | { readonly op: "perHead"; readonly values: readonly number[] }
  | { readonly op: "sub"; readonly a: Int; readonly b: Int }
  /** Floor division and its remainder by a positive constant. */
  | { readonly op: "div" | "mod"; readonly a: Int; readonly by: Int };

/** Lists of drawn blocks, ascending: one for each row block, of all heads or of each. */
export interface Draws {
  readonly perHead: boolean;
  /** Longest list. */
  readonly width: number;
  list(head: number, row: number): readonly number[];
}

export type Rule =
  | { readonly op: "all" }
  | { readonly op: "le" | "eq"; readonly a: Int; readonly b: Int }
  /** x is in an ascending list. */
  | { readonly op: "in"; readonly x: Int; readonly set: readonly number[] }
  /** The block is in the list drawn for the row block. */
  | { readonly op: "drawn"; readonly row: Int; readonly block: Int; readonly draws: Draws }
  | { readonly op: "and" | "or"; readonly of: readonly Rule[] };

export const head: Int = { op: "head" };
export const query: Int = { op: "query" };
export const key: Int = { op: "key" };
export const constant = (value: number): Int => ({ op: "const", value });
export const sub = (a: Int, b: Int): Int => ({ op: "sub", a, b });
export const div = (a: Int, by: Int | number): Int => ({ op: "div", a, by: integer(by) });
export const mod = (a: Int, by: Int | number): Int => ({ op: "mod", a, by: integer(by) });
export const le = (a: Int, b: Int | number): Rule => ({ op: "le", a, b: integer(b) });
export const eq = (a: Int, b: Int | number): Rule => ({ op: "eq", a, b: integer(b) });
export const and = (...of: readonly Rule[]): Rule => (of.length === 1 ? of[0]! : { op: "and", of });
export const or = (...of: readonly Rule[]): Rule => (of.length === 1 ? of[0]! : { op: "or", of });
const integer = (x: Int | number): Int => (typeof x === "number" ? constant(x) : x);

const floorMod = (a: number, b: number): number => ((a % b) + b) % b;

function int(x: Int): (h: number, i: number, j: number) => number {
  switch (x.op) {
    case "head":
      return (h) => h;
    case "query":
      return (_, i) => i;
    case "key":
      return (_, __, j) => j;
    case "const":
      return () => x.value;
    case "perHead":
      return (h) => x.values[h]!;
    case "sub": {
      const [a, b] = [int(x.a), int(x.b)];
      return (h, i, j) => a(h, i, j) - b(h, i, j);
    }
    case "div": {
      const [a, by] = [int(x.a), int(x.by)];
      return (h, i, j) => Math.floor(a(h, i, j) / by(h, i, j));
    }
    case "mod": {
      const [a, by] = [int(x.a), int(x.by)];
      return (h, i, j) => floorMod(a(h, i, j), by(h, i, j));
    }
  }
}

/** First place in an ascending list whose value is at least x. */
function lowerBound(list: readonly number[], x: number): number {
  let [low, high] = [0, list.length];
  while (low < high) {
    const mid = (low + high) >> 1;
    if (list[mid]! < x) low = mid + 1;
    else high = mid;
  }
  return low;
}

/** The rule of one pair. */
export function predicate(rule: Rule): (h: number, i: number, j: number) => boolean {
  switch (rule.op) {
    case "all":
      return () => true;
    case "le": {
      const [a, b] = [int(rule.a), int(rule.b)];
      return (h, i, j) => a(h, i, j) <= b(h, i, j);
    }
    case "eq": {
      const [a, b] = [int(rule.a), int(rule.b)];
      return (h, i, j) => a(h, i, j) === b(h, i, j);
    }
    case "in": {
      const x = int(rule.x);
      const set = new Set(rule.set);
      return (h, i, j) => set.has(x(h, i, j));
    }
    case "drawn": {
      const [row, block] = [int(rule.row), int(rule.block)];
      return (h, i, j) => {
        const list = rule.draws.list(h, row(h, i, j));
        const x = block(h, i, j);
        return list[lowerBound(list, x)] === x;
      };
    }
    case "and": {
      const parts = rule.of.map(predicate);
      return (h, i, j) => parts.every((p) => p(h, i, j));
    }
    case "or": {
      const parts = rule.of.map(predicate);
      return (h, i, j) => parts.some((p) => p(h, i, j));
    }
  }
}

/** lo, lo + step, .., hi; step 0 for one number. */
export interface Strided {
  readonly lo: number;
  readonly hi: number;
  readonly step: number;
}

/** What a rule says of a block of pairs. */
export type Verdict = "all" | "none" | "some";

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));
const strided = (lo: number, hi: number, step: number): Strided => ({ lo, hi, step: lo === hi ? 0 : step });

function range(x: Int, h: number, i: Strided, j: Strided): Strided {
  switch (x.op) {
    case "head":
      return strided(h, h, 0);
    case "query":
      return i;
    case "key":
      return j;
    case "const":
      return strided(x.value, x.value, 0);
    case "perHead":
      return strided(x.values[h]!, x.values[h]!, 0);
    case "sub": {
      const [a, b] = [range(x.a, h, i, j), range(x.b, h, i, j)];
      return strided(a.lo - b.hi, a.hi - b.lo, gcd(a.step, b.step));
    }
    case "div": {
      const a = range(x.a, h, i, j);
      const by = range(x.by, h, i, j).lo;
      return strided(Math.floor(a.lo / by), Math.floor(a.hi / by), a.step % by === 0 ? a.step / by : 1);
    }
    case "mod": {
      const a = range(x.a, h, i, j);
      const by = range(x.by, h, i, j).lo;
      const low = floorMod(a.lo, by);
      if (a.step % by === 0) return strided(low, low, 0);
      if (Math.floor(a.lo / by) === Math.floor(a.hi / by)) return strided(low, floorMod(a.hi, by), a.step);
      const step = gcd(a.step, by);
      return strided(low % step, by - step + (low % step), step);
    }
  }
}

/** How many of a strided interval are in an ascending list, and how many it holds. */
function among(list: readonly number[], x: Strided): Verdict {
  let found = 0;
  for (let at = lowerBound(list, x.lo); at < list.length && list[at]! <= x.hi; at++)
    if (x.step === 0 || (list[at]! - x.lo) % x.step === 0) found++;
  if (found === 0) return "none";
  return found === (x.step === 0 ? 1 : (x.hi - x.lo) / x.step + 1) ? "all" : "some";
}

/** The verdict over the pairs of i and j; "some" also where it takes a closer look to tell. */
export function verdict(rule: Rule, h: number, i: Strided, j: Strided): Verdict {
  switch (rule.op) {
    case "all":
      return "all";
    case "le": {
      const [a, b] = [range(rule.a, h, i, j), range(rule.b, h, i, j)];
      return a.hi <= b.lo ? "all" : a.lo > b.hi ? "none" : "some";
    }
    case "eq": {
      const [a, b] = [range(rule.a, h, i, j), range(rule.b, h, i, j)];
      if (a.lo > b.hi || b.lo > a.hi) return "none";
      const step = gcd(a.step, b.step);
      if (step === 0) return a.lo === b.lo ? "all" : "none";
      return (a.lo - b.lo) % step === 0 ? "some" : "none";
    }
    case "in":
      return among(rule.set, range(rule.x, h, i, j));
    case "drawn": {
      const row = range(rule.row, h, i, j);
      return row.step === 0 ? among(rule.draws.list(h, row.lo), range(rule.block, h, i, j)) : "some";
    }
    case "and": {
      let all = true;
      for (const part of rule.of) {
        const v = verdict(part, h, i, j);
        if (v === "none") return "none";
        all &&= v === "all";
      }
      return all ? "all" : "some";
    }
    case "or": {
      let none = true;
      for (const part of rule.of) {
        const v = verdict(part, h, i, j);
        if (v === "all") return "all";
        none &&= v === "none";
      }
      return none ? "none" : "some";
    }
  }
}

/** Whether a rule asks for the head. */
export function usesHead(rule: Rule): boolean {
  const asks = (x: Int): boolean =>
    x.op === "head" ||
    (x.op === "perHead" && x.values.some((n) => n !== x.values[0])) ||
    (x.op === "sub" && (asks(x.a) || asks(x.b))) ||
    ((x.op === "div" || x.op === "mod") && (asks(x.a) || asks(x.by)));
  switch (rule.op) {
    case "all":
      return false;
    case "le":
    case "eq":
      return asks(rule.a) || asks(rule.b);
    case "in":
      return asks(rule.x);
    case "drawn":
      return rule.draws.perHead || asks(rule.row) || asks(rule.block);
    case "and":
    case "or":
      return rule.of.some(usesHead);
  }
}

/** The moduli of a head's rule: strides at which its rows and columns may be worth sorting. */
export function moduli(rule: Rule, h: number, into: Set<number> = new Set()): Set<number> {
  const look = (x: Int): void => {
    if (x.op === "sub") [x.a, x.b].forEach(look);
    if (x.op === "div" || x.op === "mod") look(x.a);
    if (x.op === "mod")
      into.add(x.by.op === "perHead" ? x.by.values[h]! : x.by.op === "const" ? x.by.value : 1);
  };
  if (rule.op === "le" || rule.op === "eq") [rule.a, rule.b].forEach(look);
  if (rule.op === "in") look(rule.x);
  if (rule.op === "drawn") [rule.row, rule.block].forEach(look);
  if (rule.op === "and" || rule.op === "or") for (const part of rule.of) moduli(part, h, into);
  return into;
}
