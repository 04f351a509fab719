import type { Int, Rule } from "./rule.js";

/*
 * The rule of a pattern as WGSL. A fragment: the attention kernels include `pattern(h, i, j)` and call it for
 * pairs of a query and a key position.
 *
 * Bindings: ints, one axis, i32: the tables of the rule, which the including kernel binds, after one another;
 * parameters `pattern_<n>` i32 are the rule's numbers, and where each table begins.
 */

/**
 * A rule as WGSL: an expression whose numbers are parameters (so that windows of other sizes share a pipeline) and
 * whose lists lie in `ints`.
 */
export interface RuleText {
  /** Text of `fn pattern(h: u32, i: i32, j: i32) -> bool` and what it calls. */
  readonly wgsl: string;
  /** Parameters `pattern_0`, `pattern_1`, ..: numbers, or where a table starts in the data. */
  readonly values: readonly (number | { readonly table: number })[];
  readonly tables: readonly Int32Array[];
}

const END = 0x7fffffff;

/**
 * Division by floats, as adapters without division of integers do it: a guess, what it leaves, and a step either way;
 * exact. And whether the ascending list of `count` numbers from `at` on holds x.
 */
const helpers = /* wgsl */ `
fn floor_div(a: i32, b: i32) -> i32 {
  var q = i32(floor(f32(a) / f32(b)));
  q += i32(floor(f32(a - q * b) / f32(b)));
  let r = a - q * b;
  return q + select(0, 1, r >= b) - select(0, 1, r < 0);
}
fn floor_mod(a: i32, b: i32) -> i32 { return a - floor_div(a, b) * b; }
fn listed(at: i32, count: i32, x: i32) -> bool {
  var low = 0;
  var high = count;
  while (low < high) {
    let mid = (low + high) / 2;
    if (ints[at + mid] < x) { low = mid + 1; } else { high = mid; }
  }
  return low < count && ints[at + min(low, count - 1)] == x;
}`;

/** `rows`: the query positions that occur, for which lists are drawn. */
export function ruleText(
  rule: Rule,
  { heads, rows }: { heads: number; rows: { readonly first: number; readonly last: number } },
): RuleText {
  const values: (number | { readonly table: number })[] = [];
  const tables: Int32Array[] = [];
  const value = (n: number | { readonly table: number }): string => `params.pattern_${values.push(n) - 1}`;
  const table = (data: Int32Array): string => value({ table: tables.push(data) - 1 });
  const int = (x: Int): string => {
    switch (x.op) {
      case "head":
        return "i32(h)";
      case "query":
        return "i";
      case "key":
        return "j";
      case "const":
        return value(x.value);
      case "perHead":
        return `ints[${table(Int32Array.from(x.values))} + i32(h)]`;
      case "sub":
        return `(${int(x.a)} - ${int(x.b)})`;
      case "div":
      case "mod":
        return `floor_${x.op}(${int(x.a)}, ${int(x.by)})`;
    }
  };
  const rowsOf = (x: Int): { first: number; last: number } => {
    if (x.op === "query") return rows;
    if (x.op === "div" && x.by.op === "const") {
      const by = x.by.value;
      const inner = rowsOf(x.a);
      return { first: Math.floor(inner.first / by), last: Math.floor(inner.last / by) };
    }
    throw new Error("the row of a draw is the query or its block");
  };
  const bool = (r: Rule): string => {
    switch (r.op) {
      case "all":
        return "true";
      case "le":
        return `${int(r.a)} <= ${int(r.b)}`;
      case "eq":
        return `${int(r.a)} == ${int(r.b)}`;
      case "in":
        return r.set.length === 0
          ? "false"
          : `listed(${table(Int32Array.from(r.set))}, ${value(r.set.length)}, ${int(r.x)})`;
      case "drawn": {
        const { first, last } = rowsOf(r.row);
        const { width, perHead } = r.draws;
        if (width === 0) return "false";
        const count = last - first + 1;
        const data = new Int32Array((perHead ? heads : 1) * count * width).fill(END);
        for (let h = 0; h < (perHead ? heads : 1); h++)
          for (let row = first; row <= last; row++)
            data.set(r.draws.list(h, row), (h * count + row - first) * width);
        const at = table(data);
        const own = perHead ? `i32(h) * ${value(count)} + ` : "";
        const w = value(width);
        return `listed(${at} + (${own}${int(r.row)} - ${value(first)}) * ${w}, ${w}, ${int(r.block)})`;
      }
      case "and":
      case "or":
        return `(${r.of.map(bool).join(r.op === "and" ? " && " : " || ")})`;
    }
  };
  const text = bool(rule);
  return {
    // Without a number there is no list, and `ints` may not be bound.
    wgsl: `${values.length > 0 ? helpers : ""}\nfn pattern(h: u32, i: i32, j: i32) -> bool { return ${text}; }`,
    values,
    tables,
  };
}
