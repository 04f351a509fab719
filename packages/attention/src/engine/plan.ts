import { buildRule } from "../patterns/build.js";
import type { PatternConfig } from "../patterns/config.js";
import { ruleText } from "../patterns/rule.wgsl.js";
import {
  bestStride,
  blocksOf,
  blocksOfClass,
  usesHead,
  visits,
  type Run,
  type Side,
} from "../patterns/visits.js";

export interface PlanShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly offset: number;
  /** Rows and columns of a tile. */
  readonly rows: number;
  readonly columns: number;
  /** Positions come from buffers: there are no blocks to tell apart. */
  readonly positions: boolean;
}

/** What the kernels need of a pattern over a shape: its predicate, its tables, and the tiles to visit. */
export interface Plan {
  /** Text of `fn pattern`. */
  readonly wgsl: string;
  /** Number of parameters `pattern_<n>`. */
  readonly values: number;
  /** The kernels follow lists of tiles. */
  readonly lists: boolean;
  /** Rows and columns are sorted by the residue of their position. */
  readonly ordered: boolean;
  /** Tiles of rows of queries, and of keys. */
  readonly queryTiles: number;
  readonly keyTiles: number;
  /** i32: tables of the rule, lists of tiles, orders. */
  readonly data: Int32Array;
  readonly params: Readonly<Record<string, number>>;
}

const KEPT = 64;
const plans = new Map<string, Plan>();

/** The plan of a pattern, made once for each shape; the latest are kept, on the host. */
export function planFor(pattern: PatternConfig, shape: PlanShape): Plan {
  const name = JSON.stringify([pattern, shape]);
  const plan = plans.get(name) ?? makePlan(pattern, shape);
  plans.delete(name);
  plans.set(name, plan);
  for (const oldest of plans.keys()) {
    if (plans.size <= KEPT) break;
    plans.delete(oldest);
  }
  return plan;
}

function makePlan(pattern: PatternConfig, shape: PlanShape): Plan {
  const { heads, kvHeads, queries, keys, offset, rows, columns, positions } = shape;
  const rule = buildRule(pattern, { heads, keys });
  const text = ruleText(rule, {
    heads,
    rows: positions ? { first: 0, last: keys - 1 } : { first: offset, last: offset + queries - 1 },
  });
  const words: number[] = [];
  const put = (data: ArrayLike<number>): number => {
    const at = words.length;
    for (let n = 0; n < data.length; n++) words.push(data[n]!);
    return at;
  };
  const tables = text.tables.map(put);
  const params: Record<string, number> = {};
  text.values.forEach((value, n) => {
    params[`pattern_${n}`] = typeof value === "number" ? value : tables[value.table]!;
  });
  let ordered = false;
  let [queryTiles, keyTiles] = [0, 0];
  if (!positions) {
    const group = heads / kvHeads;
    const byHead = usesHead(rule);
    const groups = Array.from({ length: byHead ? kvHeads : 1 }, (_, g) =>
      Array.from({ length: byHead ? group : 1 }, (_, n) => g * group + n),
    );
    const side = (stride: number, first: number, count: number, block: number, shared: number): Side => ({
      stride,
      first,
      count,
      block,
      shared,
    });
    const queryRows = (stride: number): Side => side(stride, offset, queries, rows, group);
    const keyRows = (stride: number): Side => side(stride, 0, keys, rows, 1);
    const keyColumns = (stride: number): Side => side(stride, 0, keys, columns, 1);
    const queryColumns = (stride: number): Side => side(stride, offset, queries, columns, group);
    const chosen = groups.map((own) =>
      bestStride(rule, own, (stride) => ({ rows: queryRows(stride), columns: keyColumns(stride) })),
    );
    ordered = chosen.some(({ stride }) => stride > 1);
    const most = (of: (stride: number) => Side): number =>
      Math.max(...chosen.map(({ stride }) => blocksOf(of(stride))));
    [queryTiles, keyTiles] = [most(queryRows), most(keyRows)];
    const lists = (tiles: number, each: readonly Run[][][]): number => {
      const at = put(new Int32Array(each.length * (tiles + 1)));
      each.forEach((list, g) => {
        for (let t = 0; t <= tiles; t++) {
          words[at + g * (tiles + 1) + t] = words.length;
          for (const { begin, end, whole, skip, spare } of list[t] ?? [])
            words.push((begin * columns + skip) * 2 + (whole ? 1 : 0), end * columns - spare);
        }
      });
      return at;
    };
    const own = (n: number): number => (byHead ? n : 0);
    params["query_visits"] = lists(
      queryTiles,
      chosen.map((c) => c.lists),
    );
    params["query_visits_stride"] = own(queryTiles + 1);
    params["key_visits"] = lists(
      keyTiles,
      chosen.map(({ stride }, g) => visits(rule, groups[g]!, keyRows(stride), queryColumns(stride), true)),
    );
    params["key_visits_stride"] = own(keyTiles + 1);
    if (ordered) {
      // The stride, then the places that a class takes as rows and as columns, for both kinds of kernels.
      const orders = chosen.map(({ stride }) => [
        stride,
        ...[queryRows, keyColumns, keyRows, queryColumns].map((of) => {
          const one = of(stride);
          return blocksOfClass(one) * one.block;
        }),
      ]);
      params["order"] = put(orders.flat());
      params["order_stride"] = own(5);
    }
  }
  if (words.length === 0) words.push(0);
  return {
    wgsl: text.wgsl,
    values: text.values.length,
    lists: !positions,
    ordered,
    queryTiles,
    keyTiles,
    data: Int32Array.from(words),
    params,
  };
}
