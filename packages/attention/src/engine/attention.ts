import {
  applyOp,
  checkConfig,
  ConfigError,
  defineKernel,
  DTypeError,
  e,
  elementwise,
  expectNumber,
  grid1d,
  input,
  isTracked,
  ShapeError,
  showShape,
  sumMiddle,
  sumToShape,
  type Gpu,
  type Kernel,
  type RelativeIndex,
  type RelativeModifier,
  type ScoreModifier,
  type Tensor,
} from "@x/kernels";
import {
  deltaBindings,
  deltaParams,
  deltaText,
  flashBackwardKey,
  flashBackwardQuery,
  keyBackwardBindings,
  queryBackwardBindings,
  type DeltaVariant,
} from "./backward.wgsl.js";
import { collectBindings, collectParams, collectText, type CollectVariant } from "./collect.wgsl.js";
import { flashForward, forwardBindings, forwardParams } from "./forward.wgsl.js";
import { pattern, windowOf, type Pattern } from "../patterns/pattern.js";
import type { PatternConfig } from "../patterns/config.js";
import { planFor, type Plan, type PlanShape } from "./plan.js";
import type { ScoreTerm } from "./scores.wgsl.js";
import { mergeBindings, mergeParams, mergeText, partsFor, type MergeVariant } from "./split.wgsl.js";
import { flashParams, ROWS, type FlashVariant } from "./tile.wgsl.js";

/** Order of the axes of q, k, v and out. */
export type AttentionLayout = "bhsd" | "bshd";

/** A rule of who sees whom as plain WGSL, for what no pattern says; no block is skipped for it. */
export interface MaskFunction {
  /** Text of `fn pattern(h: u32, i: i32, j: i32) -> bool`; i and j are positions. */
  readonly wgsl: string;
}

/** Positions of rows that are not simply counted: caches and packed batches. */
export interface AttentionPositions {
  /** i32 [batch, queries] and [batch, keys]; a key below 0 is an empty slot. */
  readonly query: Tensor;
  readonly key: Tensor;
  /** Bounds of query position - key position, for modifiers that look distances up. */
  readonly minDistance?: number;
  readonly maxDistance?: number;
}

export interface AttentionOptions {
  /** Factor of q.k; default headDim^-0.5. */
  readonly scale?: number;
  /** Hide keys after the query. */
  readonly causal?: boolean;
  /** Keys to see beside the own one on each side; -1: all. A Mistral window of W keys is left: W - 1, right: 0. */
  readonly window?: { readonly left: number; readonly right: number } | undefined;
  /** Position of the first query; default keys - queries, so that the last query sees the last key. */
  readonly queryOffset?: number;
  /** Score = softcap tanh(score / softcap), before modifiers and bias (Gemma 2); 0: off. */
  readonly softcap?: number;
  /** Positional terms, in order. */
  readonly modifiers?: readonly ScoreModifier[];
  /** Added last; f32, broadcasts to [batch, heads, queries, keys]. */
  readonly bias?: Tensor | undefined;
  /** i32, broadcasts to [batch, heads, queries, keys]: 1 keeps. */
  readonly mask?: Tensor | undefined;
  /** i32 [batch, keys]: 1 keeps. */
  readonly keyMask?: Tensor | undefined;
  /** i32 [batch, keys]: document of each token; rows see their own document; below 0 is padding. */
  readonly docs?: Tensor | undefined;
  /** f32 [heads]: a logit in the denominator without a value (gpt-oss). */
  readonly sinks?: Tensor | undefined;
  /** Which keys a query sees, in addition to the masks; blocks without a visible pair are never visited. */
  readonly pattern?: Pattern | PatternConfig | MaskFunction | undefined;
  readonly positions?: AttentionPositions | undefined;
  /** "bhsd" (default): [batch, heads, seq, headDim]; "bshd": [batch, seq, heads, headDim]. */
  readonly layout?: AttentionLayout;
  /** Also give the weights summed by row of this index, [batch, heads, queries, index.rows]. */
  readonly weightSums?: RelativeIndex | undefined;
}

export interface AttentionResult {
  readonly out: Tensor;
  /** log of the sum of exponentials, [batch, heads, queries]; -inf for a row that sees nothing. Differentiable. */
  readonly lse: Tensor;
  readonly weightSums: Tensor | undefined;
}

const subgroups = (v: FlashVariant): boolean => v.lanes > 0;
const forwardKernel: Kernel<FlashVariant> = defineKernel({
  name: "attention",
  bindings: forwardBindings,
  params: forwardParams,
  subgroups,
  wgsl: flashForward,
});
const mergeKernel: Kernel<MergeVariant> = defineKernel({
  name: "attentionMerge",
  bindings: mergeBindings,
  params: mergeParams,
  wgsl: mergeText,
});
const queryKernel: Kernel<FlashVariant> = defineKernel({
  name: "attentionBackwardQuery",
  bindings: queryBackwardBindings,
  params: flashParams,
  subgroups,
  wgsl: flashBackwardQuery,
});
const keyKernel: Kernel<FlashVariant> = defineKernel({
  name: "attentionBackwardKey",
  bindings: keyBackwardBindings,
  params: flashParams,
  subgroups,
  wgsl: flashBackwardKey,
});
const deltaKernel: Kernel<DeltaVariant> = defineKernel({
  name: "attentionDelta",
  bindings: deltaBindings,
  params: deltaParams,
  wgsl: deltaText,
});
const collectKernel: Kernel<CollectVariant> = defineKernel({
  name: "attentionCollect",
  bindings: collectBindings,
  params: collectParams,
  wgsl: collectText,
});

const softcapTerms = new Map<number, ScoreModifier>();
/** cap tanh(score / cap), as a modifier. */
export function softcapModifier(cap: number): ScoreModifier {
  expectNumber("softcapModifier", "cap", cap, Number.MIN_VALUE);
  let term = softcapTerms.get(cap);
  if (!term) {
    term = { kind: "pointwise", name: "softcap", expr: e.mul(cap, e.tanh(e.mul(input("score"), 1 / cap))) };
    softcapTerms.set(cap, term);
  }
  return term;
}

const emptyRows = elementwise("lse", ["lse", "none"], (lse, none) => e.select(e.lt(1e38, lse), none, lse));
/** d sink = -sum over rows of exp(sink - lse) delta. */
const sinkGradient = elementwise("sinkGradient", ["sink", "lse", "delta"], (sink, lse, delta) =>
  e.neg(e.mul(e.exp(e.sub(sink, lse)), delta)),
);

function lanesFor(gpu: Gpu): number {
  const { subgroups: has, subgroupMinSize, subgroupMaxSize } = gpu.features;
  return has && subgroupMinSize === subgroupMaxSize && subgroupMinSize >= ROWS && subgroupMinSize <= 32
    ? subgroupMinSize
    : 0;
}

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
  const strides = [0, 0, 0, 0];
  let step = 1;
  for (let i = 1; i <= 4; i++) {
    const n = t.shape[t.rank - i];
    if (n === undefined) break;
    if (n !== 1 && n !== target[4 - i])
      throw new ShapeError(
        who,
        `${name} has shape ${showShape(t.shape)}; it must broadcast to ${showShape(target)}`,
      );
    strides[4 - i] = n === 1 ? 0 : step;
    step *= n;
  }
  if (t.rank > 4)
    throw new ShapeError(
      who,
      `${name} has shape ${showShape(t.shape)}; it must broadcast to ${showShape(target)}`,
    );
  return strides;
}

/** Keys that a window leaves to a tile of rows. */
function windowKeys(window: AttentionOptions["window"], causal: boolean, keys: number): number {
  const left = window?.left ?? -1;
  const right = causal ? 0 : (window?.right ?? -1);
  return left < 0 || right < 0 ? keys : Math.min(keys, left + right + ROWS);
}

const OPTIONS = [
  "scale",
  "causal",
  "window",
  "queryOffset",
  "softcap",
  "modifiers",
  "bias",
  "mask",
  "keyMask",
  "docs",
  "sinks",
  "pattern",
  "positions",
  "layout",
  "weightSums",
];

interface Visible {
  readonly causal: boolean;
  readonly window: AttentionOptions["window"];
  /** Text of a mask function. */
  readonly rule?: string | undefined;
  readonly plan?: Plan | undefined;
}

/** The masks of the options: a pattern that is a window joins the window; others bring a plan that holds all. */
function visible(options: AttentionOptions, shape: PlanShape): Visible {
  const { causal = false, window, pattern: given } = options;
  if (given === undefined) return { causal, window };
  if ("wgsl" in given) return { causal, window, rule: given.wgsl };
  const both = pattern(given).and(
    { kind: "slidingWindow", ...window },
    ...(causal ? [{ kind: "causal" } as const] : []),
  );
  const simple = windowOf(both);
  if (simple) return { causal: simple.causal, window: simple.window };
  if (shape.positions) return { causal, window, plan: planFor(pattern(given), shape) };
  return { causal: false, window: undefined, plan: planFor(both, shape) };
}

/** The fused kernels: out, lse (3e38 for an empty row) and, if asked for, the sums of weights. */
function engine(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor[] {
  const who = "attention";
  checkConfig(who, options, OPTIONS);
  const { gpu } = q;
  const { layout = "bhsd", softcap = 0, bias, mask, keyMask, docs, sinks, positions, weightSums } = options;
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
  for (const [name, t] of Object.entries({ q, k, v })) {
    if (t.dtype !== "f32" && t.dtype !== "f16")
      throw new DTypeError(who, `${name} is ${t.dtype}; it must be f32 or f16`);
  }
  const scale = options.scale ?? dim ** -0.5;
  expectNumber(who, "scale", scale);
  expectNumber(who, "softcap", softcap, 0);
  const matrix = [batch, heads, queries, keys];
  const offset = options.queryOffset ?? keys - queries;
  const integers = (name: string, t: Tensor | undefined, shape: readonly number[]): void => {
    if (!t) return;
    if (t.dtype !== "i32") throw new DTypeError(who, `${name} is ${t.dtype}; it must be i32`);
    if (t.rank !== shape.length || t.shape.some((n, i) => n !== shape[i]))
      throw new ShapeError(who, `${name} has shape ${showShape(t.shape)}; it must be ${showShape(shape)}`);
  };
  integers("keyMask", keyMask, [batch, keys]);
  integers("docs", docs, [batch, keys]);
  integers("positions.query", positions?.query, [batch, queries]);
  integers("positions.key", positions?.key, [batch, keys]);
  if (mask && mask.dtype !== "i32") throw new DTypeError(who, `mask is ${mask.dtype}; it must be i32`);
  if (docs && offset + queries > keys)
    throw new ConfigError(
      who,
      `docs holds the document of each of the ${keys} keys; the last query is at ${offset + queries - 1}`,
    );
  for (const [name, t] of Object.entries({ bias, sinks }))
    if (t && t.dtype !== "f32") throw new DTypeError(who, `${name} is ${t.dtype}; it must be f32`);
  if (sinks && (sinks.rank !== 1 || sinks.size !== heads))
    throw new ShapeError(who, `sinks has shape ${showShape(sinks.shape)}; it must be [${heads}]`);

  // Terms in order, with what each binds.
  const modifiers = [...(softcap > 0 ? [softcapModifier(softcap)] : []), ...(options.modifiers ?? [])];
  const [minDistance, maxDistance] = positions
    ? [positions.minDistance ?? 0, positions.maxDistance ?? 0]
    : [offset - (keys - 1), offset + queries - 1];
  const terms: ScoreTerm[] = [];
  const extraBindings: Record<string, Tensor> = {};
  const extraParams: Record<string, number | readonly number[]> = {};
  const relatives: { term: number; modifier: RelativeModifier; table: { tensor: Tensor; min: number } }[] =
    [];
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
        extraBindings[`slopes${t}`] = modifier.slopes;
      }
      continue;
    }
    const { axes, tensor, index, name } = modifier;
    const shape = {
      h: [heads, index.rows],
      bhq: [batch, heads, queries, index.rows],
      bhk: [batch, heads, keys, index.rows],
    }[axes];
    if (tensor.dtype !== "f32") throw new DTypeError(name, `its tensor is ${tensor.dtype}; it must be f32`);
    if (tensor.rank !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
      throw new ShapeError(
        name,
        `its tensor has shape ${showShape(tensor.shape)}; it must be ${showShape(shape)}`,
      );
    }
    if (positions && positions.minDistance === undefined)
      throw new ConfigError(who, `positions needs minDistance and maxDistance for the modifier ${name}`);
    const table = index.table(gpu, minDistance, maxDistance);
    terms.push({ kind: "relative", axes });
    relatives.push({ term: t, modifier, table });
    extraBindings[`term${t}`] = tensor;
    extraBindings[`index${t}`] = table.tensor;
    extraParams[`min${t}`] = table.min;
    extraParams[`rows${t}`] = index.rows;
  }
  const biasTerm = terms.length;
  if (bias) {
    terms.push({ kind: "bias" });
    extraBindings[`term${biasTerm}`] = bias;
    extraParams[`stride${biasTerm}`] = broadcastStrides(who, "bias", bias, matrix);
  }
  if (mask) {
    extraBindings["mask"] = mask;
    extraParams["mask_stride"] = broadcastStrides(who, "mask", mask, matrix);
  }
  if (keyMask) extraBindings["key_mask"] = keyMask;
  if (docs) extraBindings["docs"] = docs;
  if (positions)
    Object.assign(extraBindings, { query_positions: positions.query, key_positions: positions.key });

  const lanes = lanesFor(gpu);
  const columns = 4 * (lanes || 32);
  const { causal, window, rule, plan } = visible(options, {
    heads,
    kvHeads,
    queries,
    keys,
    offset,
    rows: ROWS,
    columns,
    positions: positions !== undefined,
  });
  if (plan) extraBindings["pattern_data"] = gpu.tensor(plan.data, [plan.data.length], "i32");
  const even = (...ns: readonly number[]): boolean => ns.every((n) => n % 4 === 0);
  const unlimited = 2 ** 30;
  const side = (n: number): number => (n < 0 ? unlimited : Math.min(n, unlimited));
  const variant: FlashVariant = {
    q: q.dtype,
    k: k.dtype,
    v: v.dtype,
    out: q.dtype,
    lanes,
    lockstep: lanes > 0 && gpu.info.software,
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
  };
  const outShape = [...q.shape.slice(0, 3), valueDim];
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
  const rowGroups = Math.ceil((queries * (heads / kvHeads)) / ROWS);
  const base = { q, k, v, ...extraBindings };
  const rows = batch * heads * queries;
  const sumsTable = weightSums?.table(gpu, minDistance, maxDistance);
  const line = (kind: "row" | "column" | "dense"): { lines: number; workgroups: [number, number] } => {
    const lines = batch * heads * (kind === "column" ? keys : queries);
    return { lines, workgroups: grid1d(Math.ceil(lines / 64)) };
  };

  // The last are constants: listed, so that they live until the backward has run.
  const inputs = [
    q,
    k,
    v,
    bias,
    sinks,
    ...relatives.map((r) => r.modifier.tensor),
    ...Object.values(extraBindings),
  ];
  // A gradient's forward stays whole, and so do sums of weights; the lists of a pattern leave few keys.
  const parts =
    isTracked(inputs) || weightSums || variant.lists
      ? 1
      : partsFor({
          workgroups: rowGroups * kvHeads * batch,
          keys: variant.window && !variant.positions ? windowKeys(window, causal, keys) : keys,
          software: gpu.info.software,
        });

  return applyOp({
    name: who,
    inputs,
    forward: () => {
      const out = gpu.empty(outShape, q.dtype);
      const lse = gpu.empty([batch, heads, queries]);
      if (rows === 0) return { outputs: [out, lse] };
      const forward = (into: { out: Tensor; lse: Tensor }): void => {
        gpu.run(forwardKernel, {
          variant: { ...variant, out: into.out.dtype },
          bindings: { ...base, ...(sinks ? { sinks } : {}), ...into },
          params: { ...params, parts, rows },
          workgroups: [rowGroups, kvHeads, batch * parts],
        });
      };
      if (parts > 1) {
        const parts_out = gpu.empty([parts, rows, valueDim]);
        const parts_lse = gpu.empty([parts, rows]);
        forward({ out: parts_out, lse: parts_lse });
        gpu.run(mergeKernel, {
          variant: { out: out.dtype },
          bindings: { parts_out, parts_lse, out, lse },
          params: { o_stride: outStride, heads, queries, rows, value_dim: valueDim, parts },
          workgroups: grid1d(Math.ceil((rows * valueDim) / 64)),
        });
        return { outputs: [out, lse] };
      }
      forward({ out, lse });
      if (!sumsTable || !weightSums) return { outputs: [out, lse] };
      const sum = gpu.zeros([batch, heads, queries, weightSums.rows]);
      const { lines, workgroups } = line("row");
      gpu.run(collectKernel, {
        variant: { ...variant, collect: "weights", line: "row", after: terms.length },
        bindings: { ...base, lse, line_index: sumsTable.tensor, sum },
        params: { ...params, line_rows: weightSums.rows, line_min: sumsTable.min, lines },
        workgroups,
      });
      return { outputs: [out, lse, sum] };
    },
    backward: ({ grads, outputs, needs }) => {
      const [out, lse, sums] = outputs as [Tensor, Tensor, Tensor | undefined];
      const dout = grads[0] ?? gpu.zeros(out.shape, out.dtype);
      const [dlse, dsums] = [grads[1], grads[2]];
      const own: FlashVariant = { ...variant, weightSums: dsums !== undefined };
      const delta = gpu.empty([batch, heads, queries]);
      gpu.run(deltaKernel, {
        variant: { out: out.dtype, sums: dsums !== undefined, lse: dlse !== undefined },
        bindings: {
          out,
          dout,
          delta,
          ...(dsums && sums ? { sums, sums_grad: dsums } : {}),
          ...(dlse ? { dlse } : {}),
        },
        params: {
          o_stride: outStride,
          heads,
          queries,
          rows,
          value_dim: valueDim,
          sums_rows: weightSums?.rows ?? 0,
        },
        workgroups: grid1d(Math.ceil(rows / 64)),
      });
      const sumsBindings = dsums && sumsTable ? { sums_grad: dsums, sums_index: sumsTable.tensor } : {};
      const allParams = {
        ...params,
        ...(dsums && sumsTable ? { sums_rows: weightSums?.rows ?? 0, sums_min: sumsTable.min } : {}),
      };
      const bindings = { ...base, dout, lse, delta, ...sumsBindings };
      let dq: Tensor | undefined;
      let dk: Tensor | undefined;
      let dv: Tensor | undefined;
      if (needs[0]) {
        dq = gpu.empty(q.shape, q.dtype);
        gpu.run(queryKernel, {
          variant: own,
          bindings: { ...bindings, dq },
          params: allParams,
          workgroups: [rowGroups, kvHeads, batch],
        });
      }
      if (needs[1] || needs[2]) {
        dk = gpu.empty(k.shape, k.dtype);
        dv = gpu.empty(v.shape, v.dtype);
        gpu.run(keyKernel, {
          variant: own,
          bindings: { ...bindings, dk, dv },
          params: allParams,
          workgroups: [Math.ceil(keys / ROWS), kvHeads, batch],
        });
      }
      const collect = (
        after: number,
        kind: "row" | "column" | "dense",
        shape: readonly number[],
        index?: { tensor: Tensor; min: number },
      ): Tensor => {
        const sum = gpu.zeros(shape);
        const { lines, workgroups } = line(kind);
        gpu.run(collectKernel, {
          variant: { ...own, collect: "scores", line: kind, after },
          bindings: { ...bindings, ...(index ? { line_index: index.tensor } : {}), sum },
          params: { ...allParams, line_rows: shape.at(-1)!, line_min: index?.min ?? 0, lines },
          workgroups,
        });
        return sum;
      };
      const dbias = bias && needs[3] ? sumToShape(collect(biasTerm, "dense", matrix), bias.shape) : undefined;
      const dsinks =
        sinks && needs[4]
          ? sumMiddle(
              sumMiddle(sinkGradient(sinks.alias([heads, 1]), lse, delta), batch * heads, queries, 1),
              1,
              batch,
              heads,
            ).alias([heads])
          : undefined;
      const drelative = relatives.map(({ term, modifier, table }, i) => {
        if (!needs[5 + i]) return undefined;
        const { axes, index, tensor } = modifier;
        if (axes === "bhk") return collect(term, "column", tensor.shape, table);
        const lines = collect(term, "row", [batch, heads, queries, index.rows], table);
        if (axes === "bhq") return lines;
        return sumMiddle(
          sumMiddle(lines, batch * heads, queries, index.rows),
          1,
          batch,
          heads * index.rows,
        ).alias(tensor.shape);
      });
      return [dq, needs[1] ? dk : undefined, needs[2] ? dv : undefined, dbias, dsinks, ...drelative];
    },
  });
}

/**
 * Attention: out = softmax(scale q k^T + terms) v over the keys that the masks let through; a row that sees nothing
 * gives zeros.
 *
 * q [batch, heads, queries, headDim], k [batch, kvHeads, keys, headDim], v [batch, kvHeads, keys, valueDim] (or with
 * the sequence before the heads, see `layout`), f32 or f16, accumulated in f32; heads is a multiple of kvHeads and
 * query head h reads key head floor(h kvHeads / heads) (GQA, arXiv:2305.13245; MQA, arXiv:1911.02150). Query row i
 * stands at position i + queryOffset.
 * Vaswani et al. 2017, arXiv:1706.03762; tiles after Dao, arXiv:2307.08691.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  return q.gpu.scope(() => engine(q, k, v, options)[0]!);
}

/** `attention` with its log-sum-exp and, with `weightSums`, the weights summed by distance. */
export function attentionOutputs(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions = {},
): AttentionResult {
  return q.gpu.scope(() => {
    const [out, lse, weightSums] = engine(q, k, v, options);
    return { out: out!, lse: emptyRows(lse!, -Infinity), weightSums };
  });
}
