import {
  ConfigError,
  expectDType,
  expectShape,
  expectTensor,
  ShapeError,
  showShape,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { checkPattern } from "../patterns/config.js";
import { configOf, windowOf } from "../patterns/pattern.js";
import {
  ATTENTION,
  softcapModifier,
  type AttentionLayout,
  type AttentionOptions,
  type MaskFunction,
} from "./options.js";
import { planFor, type Plan, type PlanShape } from "./plan.js";
import type { ScoreTerm } from "./wgsl/scores.wgsl.js";
import { ROWS, tileColumns, tileLanes, type FlashVariant } from "./wgsl/tile.wgsl.js";

interface Sizes {
  readonly batch: number;
  readonly heads: number;
  readonly seq: number;
  readonly dim: number;
  /** Steps of batch, head and row. */
  readonly stride: readonly number[];
}

function sizes(who: string, name: string, t: Tensor, layout: AttentionLayout): Sizes {
  if (t.rank !== 4) {
    const shape = layout === "bhsd" ? "[batch, heads, seq, headDim]" : "[batch, seq, heads, headDim]";
    throw new ShapeError(who, `${name} has shape ${showShape(t.shape)}; it must be ${shape}`);
  }
  const [batch, x, y, dim] = t.shape as [number, number, number, number];
  return layout === "bhsd"
    ? { batch, heads: x, seq: y, dim, stride: [x * y * dim, y * dim, dim, 0] }
    : { batch, heads: y, seq: x, dim, stride: [x * y * dim, dim, y * dim, 0] };
}

/** Steps of a tensor that broadcasts to `target`. */
function broadcastStrides(who: string, name: string, t: Tensor, target: readonly number[]): number[] {
  const given = [1, 1, 1, 1, ...t.shape].slice(-4);
  if (t.rank > 4 || given.some((n, i) => n !== 1 && n !== target[i]))
    throw new ShapeError(
      who,
      `${name} has shape ${showShape(t.shape)}; it must broadcast to ${showShape(target)}`,
    );
  let step = t.size;
  return given.map((n) => (n === 1 ? 0 : (step /= n)));
}

/** Keys that a window leaves to a tile of rows. */
function windowKeys(window: AttentionOptions["window"], causal: boolean, keys: number): number {
  const left = window?.left ?? -1;
  const right = causal ? 0 : (window?.right ?? -1);
  return left < 0 || right < 0 ? keys : Math.min(keys, left + right + ROWS);
}

interface Visible {
  readonly causal: boolean;
  readonly window: AttentionOptions["window"];
  /** Text of a mask function. */
  readonly rule?: string | undefined;
  readonly plan?: Plan | undefined;
}

const isRule = (given: AttentionOptions["pattern"]): given is MaskFunction =>
  (given as Partial<MaskFunction> | null)?.wgsl !== undefined;

/** Combines `causal`, `window` and `pattern`: a window pattern narrows the window, others make a plan of all three. */
function visible(options: AttentionOptions, shape: PlanShape): Visible {
  const { causal = false, window, pattern: given } = options;
  const sides = { kind: "slidingWindow", ...window, causal } as const;
  checkPattern(sides);
  if (given === undefined) return { causal, window };
  if (isRule(given)) return { causal, window, rule: given.wgsl };
  const own = configOf(given);
  const both = { kind: "intersection", of: [own, sides] } as const;
  checkPattern(both);
  const simple = windowOf(both);
  if (simple) return { causal: simple.causal, window: simple.window };
  if (shape.positions) return { causal, window, plan: planFor(own, shape) };
  return { causal: false, window: undefined, plan: planFor(both, shape) };
}

/** A relative term: its number among the terms, and its rows by distance. */
interface RelativeTerm {
  readonly term: number;
  readonly modifier: RelativeModifier;
  readonly table: { readonly tensor: Tensor; readonly min: number };
}

/** A call of attention, checked, as its kernels take it. */
export interface Problem {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly valueDim: number;
  readonly variant: FlashVariant;
  readonly params: Readonly<Record<string, number | readonly number[]>>;
  /** What every kernel binds besides q, k and v. */
  readonly extras: Readonly<Record<string, Tensor>>;
  readonly relatives: readonly RelativeTerm[];
  /** Bounds of query position - key position. */
  readonly distances: readonly [min: number, max: number];
  /** Tiles of rows of queries, and of keys. */
  readonly queryTiles: number;
  readonly keyTiles: number;
  /** Keys that a tile of rows sees at most. */
  readonly keysOfTile: number;
}

/** Checks the arguments and derives the kernels' variants, bindings and parameters. @throws ShapeError, DTypeError, ConfigError */
export function problemOf(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions,
  who = "attention",
): Problem {
  ATTENTION.read(options, who);
  for (const [name, t] of Object.entries({ q, k, v })) expectTensor(who, name, t);
  const { gpu } = q;
  const { layout = "bhsd", softcap = 0, bias, mask, keyMask, docs, sinks, positions } = options;
  const [sq, sk, sv] = [sizes(who, "q", q, layout), sizes(who, "k", k, layout), sizes(who, "v", v, layout)];
  const { batch, heads, seq: queries, dim } = sq;
  const { heads: kvHeads, seq: keys } = sk;
  const valueDim = sv.dim;
  if (sk.batch !== batch || sv.batch !== batch || sk.dim !== dim || sv.heads !== kvHeads || sv.seq !== keys) {
    throw new ShapeError(
      who,
      `q has shape ${showShape(q.shape)}, k ${showShape(k.shape)}, v ${showShape(v.shape)} (${layout}); batch must be equal, q and k need one headDim, k and v one head count and length`,
    );
  }
  if (kvHeads === 0 || heads % kvHeads !== 0)
    throw new ShapeError(
      who,
      `q has ${heads} heads, k has ${kvHeads}; the first must be a multiple of the second`,
    );
  if (q.size > 0 && (keys === 0 || dim === 0 || valueDim === 0))
    throw new ShapeError(who, `k has shape ${showShape(k.shape)}; there must be a key`);
  for (const [name, t] of Object.entries({ q, k, v })) expectDType(who, name, t, "f32", "f16");
  const scale = options.scale ?? dim ** -0.5;
  const matrix = [batch, heads, queries, keys];
  const offset = options.queryOffset ?? keys - queries;
  const integers = (name: string, t: Tensor | undefined, shape: readonly number[]): void => {
    if (!t) return;
    expectDType(who, name, t, "i32");
    expectShape(who, name, t, shape);
  };
  integers("keyMask", keyMask, [batch, keys]);
  integers("docs", docs, [batch, keys]);
  integers("positions.query", positions?.query, [batch, queries]);
  integers("positions.key", positions?.key, [batch, keys]);
  if (mask) expectDType(who, "mask", mask, "i32");
  if (docs && (offset < 0 || offset + queries > keys))
    throw new ConfigError(
      who,
      `docs holds the document of each of the ${keys} keys; the queries are at ${offset}..${offset + queries - 1}`,
    );
  for (const [name, t] of Object.entries({ bias, sinks })) if (t) expectDType(who, name, t, "f32");
  if (sinks) expectShape(who, "sinks", sinks, [heads]);

  // Terms in order, with what each binds.
  const modifiers = [...(softcap > 0 ? [softcapModifier(softcap)] : []), ...(options.modifiers ?? [])];
  const distances: [number, number] = positions
    ? [positions.minDistance ?? 0, positions.maxDistance ?? 0]
    : [offset - (keys - 1), offset + queries - 1];
  const terms: ScoreTerm[] = [];
  const extras: Record<string, Tensor> = {};
  const extraParams: Record<string, number | readonly number[]> = {};
  const relatives: RelativeTerm[] = [];
  for (const modifier of modifiers) {
    const t = terms.length;
    if (modifier.kind === "pointwise") {
      terms.push({ kind: "pointwise", expr: modifier.expr, slopes: modifier.slopes !== undefined });
      if (modifier.slopes) {
        if (modifier.slopes.size !== heads)
          throw new ShapeError(
            modifier.name,
            `slopes has shape ${showShape(modifier.slopes.shape)}; it must be [${heads}]`,
          );
        extras[`slopes${t}`] = modifier.slopes;
      }
      continue;
    }
    const { axes, tensor, index, name } = modifier;
    const shape = {
      h: [heads, index.rows],
      bhq: [batch, heads, queries, index.rows],
      bhk: [batch, heads, keys, index.rows],
    }[axes];
    expectDType(name, "its tensor", tensor, "f32");
    expectShape(name, "its tensor", tensor, shape);
    if (positions && positions.minDistance === undefined)
      throw new ConfigError(who, `positions needs minDistance and maxDistance for the modifier ${name}`);
    const table = index.table(gpu, ...distances);
    terms.push({ kind: "relative", axes });
    relatives.push({ term: t, modifier, table });
    extras[`term${t}`] = tensor;
    extras[`index${t}`] = table.tensor;
    extraParams[`min${t}`] = table.min;
    extraParams[`rows${t}`] = index.rows;
  }
  // The last term, so that the gradient finds its number as the count of the others.
  if (bias) {
    const t = terms.length;
    terms.push({ kind: "bias" });
    extras[`term${t}`] = bias;
    extraParams[`stride${t}`] = broadcastStrides(who, "bias", bias, matrix);
  }
  if (mask) {
    extras["mask"] = mask;
    extraParams["mask_stride"] = broadcastStrides(who, "mask", mask, matrix);
  }
  if (keyMask) extras["key_mask"] = keyMask;
  if (docs) extras["docs"] = docs;
  if (positions) Object.assign(extras, { query_positions: positions.query, key_positions: positions.key });

  const lanes = tileLanes(gpu);
  const columns = tileColumns(lanes);
  const { causal, window, rule, plan } = visible(options, {
    heads,
    kvHeads,
    queries,
    keys: positions?.length ?? keys,
    offset,
    rows: ROWS,
    columns,
    positions: positions !== undefined,
  });
  if (plan) extras["ints"] = gpu.tensor(plan.data, [plan.data.length], "i32");
  const even = (...ns: readonly number[]): boolean => ns.every((n) => n % 4 === 0);
  const unlimited = 2 ** 30;
  const side = (n: number): number => (n < 0 ? unlimited : Math.min(n, unlimited));
  const variant: FlashVariant = {
    q: q.dtype,
    k: k.dtype,
    v: v.dtype,
    out: q.dtype,
    ...lanes,
    vecQK: even(dim),
    vecV: even(valueDim),
    piecesQK: Math.ceil(dim / columns),
    piecesV: Math.ceil(valueDim / columns),
    sinks: sinks !== undefined,
    weightSums: false,
    terms,
    causal,
    window: window !== undefined && (window.left >= 0 || window.right >= 0),
    mask: mask !== undefined,
    keyMask: keyMask !== undefined,
    docs: docs !== undefined,
    pattern: plan?.wgsl ?? rule,
    patternValues: plan?.values ?? 0,
    lists: plan?.lists ?? false,
    ordered: plan?.ordered ?? false,
    positions: positions !== undefined,
    inOrder: positions?.inOrder ?? false,
    folded: [],
  };
  const outStride =
    layout === "bhsd"
      ? [heads * queries * valueDim, queries * valueDim, valueDim, 0]
      : [heads * queries * valueDim, valueDim, heads * valueDim, 0];
  const params = {
    q_stride: sq.stride,
    k_stride: sk.stride,
    v_stride: sv.stride,
    o_stride: outStride,
    heads,
    group: heads / kvHeads,
    queries,
    keys,
    head_dim: dim,
    value_dim: valueDim,
    scale,
    offset,
    window_left: side(window?.left ?? -1),
    window_right: side(window?.right ?? -1),
    ...extraParams,
    ...plan?.params,
  };
  return {
    batch,
    heads,
    kvHeads,
    queries,
    keys,
    valueDim,
    variant,
    params,
    extras,
    relatives,
    distances,
    queryTiles: plan?.queryTiles || Math.ceil((queries * heads) / kvHeads / ROWS),
    keyTiles: plan?.keyTiles || Math.ceil(keys / ROWS),
    keysOfTile: variant.window && !variant.positions ? windowKeys(window, causal, keys) : keys,
  };
}
