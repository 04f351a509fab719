import * as attention from "@x/attention";
import { RelativeIndex, type Gpu, type Tensor } from "@x/kernels";
import { construct, method, valid } from "./calls.js";
import type { ValidCalls } from "./probe.js";

const [HEADS, SEQ, DIM, LENGTH] = [2, 3, 4, 8];
const f = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 0.5);
const i = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 1, "i32");
/** Queries, keys or values in the order "bhsd". */
const heads = (gpu: Gpu): Tensor => f(gpu, 1, HEADS, SEQ, DIM);
/** Those of a cache, in the order "bshd". */
const rows = (gpu: Gpu): Tensor => f(gpu, 1, SEQ, HEADS, DIM);
const qkv = (gpu: Gpu): Tensor[] => [heads(gpu), heads(gpu), heads(gpu)];
const part = (gpu: Gpu): object => ({ out: heads(gpu), lse: f(gpu, 1, HEADS, SEQ) });
const positions = [0, 1, 2];

/** Options that every form of attention takes. */
const common = (gpu: Gpu): object => ({
  ...{ scale: 0.5, causal: true, window: { left: 1, right: 0 }, softcap: 10 },
  modifiers: [attention.softcapModifier(3)],
  bias: f(gpu, 1, HEADS, SEQ, 1),
  mask: i(gpu, 1, 1, SEQ, SEQ),
  sinks: f(gpu, HEADS),
  pattern: attention.slidingWindow(2, 0),
});
const scores = (gpu: Gpu): object => ({
  ...common(gpu),
  ...{ queryOffset: 0, layout: "bhsd" },
  keyMask: i(gpu, 1, SEQ),
  docs: i(gpu, 1, SEQ),
  positions: {
    ...{ query: i(gpu, 1, SEQ), key: i(gpu, 1, SEQ) },
    ...{ inOrder: false, length: LENGTH, minDistance: -2, maxDistance: 2 },
  },
});
const full = (gpu: Gpu): object => ({
  ...scores(gpu),
  weightSums: new RelativeIndex(5, (distance) => Math.min(Math.max(distance + 2, 0), 4)),
});

const kvSizes = { batch: 1, numKvHeads: HEADS, headDim: DIM, valueDim: DIM, maxLength: LENGTH, dtype: "f32" };
const kvCache = (gpu: Gpu): attention.KVCache =>
  new attention.KVCache(gpu, { batch: 1, numKvHeads: HEADS, headDim: DIM, maxLength: LENGTH });
const latentSizes = { batch: 1, kvRank: 3, ropeDim: 2, maxLength: LENGTH, dtype: "f32" } as const;
const latentCache = (gpu: Gpu): attention.LatentCache => new attention.LatentCache(gpu, latentSizes);
const rotation = { textLength: LENGTH, changes: (): boolean => false };

const exact = (gpu: Gpu): attention.ExactIndex => new attention.ExactIndex(gpu, { dim: DIM });
/** An index of a library, which finds nothing. */
const library: attention.VectorIndex = {
  add: () => undefined,
  search: (_, k) => ({ keys: new BigUint64Array(k), distances: new Float32Array(k) }),
};
/** An index that holds vectors. */
const filled =
  <T extends attention.MemoryIndex>(make: (gpu: Gpu) => T) =>
  (gpu: Gpu): T => {
    const index = make(gpu);
    void index.add(f(gpu, SEQ, DIM));
    return index;
  };
const approximate = (gpu: Gpu): attention.ApproximateIndex =>
  new attention.ApproximateIndex(gpu, library, { dim: DIM });

const size = { heads: 2, queries: 6, keys: 8, queryOffset: 2 };
const window = (): attention.Pattern => attention.slidingWindow(2, 1);
const json = { kind: "slidingWindow", left: 2, right: 1, causal: true };
const causal = { causal: true };
const picture = { head: 1, blocks: [2, 2], title: "window" };
const titles = { "1.title": ["no such thing"] };

/** A valid call of every export of @x/attention on the way to softmax attention: kernels, caches, search, patterns. */
export const ENGINE: ValidCalls = {
  attention: (gpu) => valid(attention.attention, ...qkv(gpu), scores(gpu)),
  attentionOutputs: (gpu) => valid(attention.attentionOutputs, ...qkv(gpu), full(gpu)),
  attentionScores: (gpu) => valid(attention.attentionScores, heads(gpu), heads(gpu), scores(gpu)),
  attentionWeights: (gpu) => valid(attention.attentionWeights, heads(gpu), heads(gpu), scores(gpu)),
  softcapModifier: () => valid(attention.softcapModifier, 30),
  // What attentionOutputs returns has more than a part needs.
  mergeAttention: (gpu) => ({
    ...valid(attention.mergeAttention, part(gpu), part(gpu)),
    open: { "0.outs": "a part may have more", "1.outs": "a part may have more" },
  }),
  longNetAttention: (gpu) =>
    valid(attention.longNetAttention, ...qkv(gpu), {
      ...{ segmentLengths: [2, 4], dilations: [1, 2], causal: true, headOffset: "block" },
      ...{ detachWeights: true, scale: 0.5 },
    }),
  gatheredAttention: (gpu) =>
    valid(attention.gatheredAttention, ...qkv(gpu), i(gpu, 1, HEADS, SEQ, 2), { scale: 0.5 }),
  topkSearch: (gpu) =>
    valid(attention.topkSearch, f(gpu, 1, SEQ, DIM), f(gpu, 1, LENGTH, DIM), 2, {
      ...{ keyMask: i(gpu, 1, LENGTH), count: 7, block: 4 },
    }),
  cachedAttention: (gpu) =>
    valid(attention.cachedAttention, rows(gpu), rows(gpu), rows(gpu), kvCache(gpu), {
      ...{ scale: 0.5, causal: true, window: { left: 1, right: 0 }, softcap: 10, modifiers: [] },
      ...{ sinks: f(gpu, HEADS), pattern: attention.causal(), bias: f(gpu, 1), mask: i(gpu, 1, 1, 1, 1) },
      ...{ positions, keyMask: i(gpu, 1, SEQ), docs: { ids: i(gpu, 1, SEQ), first: 0 } },
      distances: { min: 0, max: LENGTH - 1 },
    }),

  KVCache: (gpu) => construct(attention.KVCache, gpu, { ...kvSizes, window: 4, maxChunk: 3 }),
  "KVCache.place": method(kvCache, "place", () => [SEQ, positions, rotation]),
  "KVCache.append": method(kvCache, "append", (gpu) => [rows(gpu), rows(gpu), positions, i(gpu, 1, SEQ)]),
  "KVCache.appendDocs": method(kvCache, "appendDocs", (gpu) => [i(gpu, 1, SEQ), i(gpu, 1, SEQ)]),
  "KVCache.part": method(kvCache, "part", (gpu) => [i(gpu, 1, SEQ), 0, 2]),
  "KVCache.positions": method(kvCache, "positions", (gpu) => [i(gpu, 1, SEQ)]),
  "KVCache.reorder": method(kvCache, "reorder", (gpu) => [i(gpu, 1)]),
  "KVCache.clear": method(kvCache, "clear"),
  LatentCache: (gpu) => construct(attention.LatentCache, gpu, latentSizes),
  "LatentCache.place": method(latentCache, "place", () => [SEQ, positions, rotation]),
  "LatentCache.append": method(latentCache, "append", (gpu) => [f(gpu, 1, SEQ, 1, 5), i(gpu, 1, SEQ)]),
  "LatentCache.reorder": method(latentCache, "reorder", (gpu) => [i(gpu, 1)]),
  "LatentCache.clear": method(latentCache, "clear"),

  ExactIndex: (gpu) => construct(attention.ExactIndex, gpu, { dim: DIM, capacity: 4 }),
  "ExactIndex.add": method(exact, "add", (gpu) => [f(gpu, SEQ, DIM)]),
  "ExactIndex.search": method(filled(exact), "search", (gpu) => [f(gpu, SEQ, DIM), 2]),
  "ExactIndex.find": method(filled(exact), "find", (gpu) => [f(gpu, SEQ, DIM), 2]),
  ApproximateIndex: (gpu) => ({
    ...construct(attention.ApproximateIndex, gpu, library, { dim: DIM }),
    open: { "1.adds": "a library's index has more methods" },
  }),
  "ApproximateIndex.add": method(approximate, "add", (gpu) => [f(gpu, SEQ, DIM)]),
  "ApproximateIndex.search": method(filled(approximate), "search", (gpu) => [f(gpu, SEQ, DIM), 2]),

  Pattern: () => construct(attention.Pattern, json),
  "Pattern.and": method(window, "and", () => [attention.causal(), json]),
  "Pattern.or": method(window, "or", () => [attention.causal(), json]),
  "Pattern.toJSON": method(window, "toJSON"),
  "Pattern.rule": method(window, "rule", () => [2, 8]),
  "Pattern.sees": method(window, "sees", () => [size]),
  "Pattern.mask": method(window, "mask", () => [size]),
  "Pattern.share": method(window, "share", () => [size, { rows: 2, columns: 2 }]),
  "Pattern.text": (gpu) => ({ ...method(window, "text", () => [size, picture])(gpu), takes: titles }),
  "Pattern.svg": (gpu) => ({ ...method(window, "svg", () => [size, picture])(gpu), takes: titles }),
  pattern: () => valid(attention.pattern, json),
  full: () => valid(attention.full),
  causal: () => valid(attention.causal),
  slidingWindow: () => valid(attention.slidingWindow, 2, 1),
  blockLocal: () => valid(attention.blockLocal, 2, 1, 1),
  dilatedWindow: () => ({
    ...valid(attention.dilatedWindow, 2, 1, [1, 2]),
    takes: { "2": [3] },
  }),
  globalTokens: () => ({ ...valid(attention.globalTokens, [0, 3]), takes: { "0": [3] } }),
  sink: () => valid(attention.sink, 2),
  randomBlocks: () => valid(attention.randomBlocks, 2, 1, { block: 2, perHead: true, ...causal }),
  bigBird: () =>
    valid(attention.bigBird, {
      ...{ block: 2, windowBlocks: 3, globalFirst: 1, globalLast: 0, randomBlocks: 1, seed: 1 },
      ...{ perHead: true, ...causal },
    }),
  sparseStrided: () => valid(attention.sparseStrided, 2, { localKeys: 2, part: "local", ...causal }),
  sparseFixed: () =>
    valid(attention.sparseFixed, 4, 1, { variants: 2, part: ["local", "column"], ...causal }),
  dilatedSegment: () => valid(attention.dilatedSegment, 4, 2, { headOffset: "block", ...causal }),
  perHead: () => valid(attention.perHead, [window(), json]),
  maskMatrix: () => valid(attention.maskMatrix, json, size),
  windowOf: () => valid(attention.windowOf, json),
  checkDecodable: () => ({
    ...valid(attention.checkDecodable, "probe", json),
    open: { "0": "the caller's name in errors" },
  }),
  drawBlocks: () => valid(attention.drawBlocks, 1, 0, 2, [0, 1, 2], 2),
  mix32: () => valid(attention.mix32, 7),
};

const OWN_TABLE = "packages/attention/src/sequence/arguments.test.ts calls it with wrong arguments";
const CONFIGURED = "packages/attention/src/configs.test.ts gives its configuration wrong values";
const MADE = "createState of its layer makes it";
const named = (reason: string, ...names: string[]): Record<string, string> =>
  Object.fromEntries(names.map((name) => [name, reason]));

/** Exports that have no call here, and why. */
export const ATTENTION_APART: Readonly<Record<string, string>> = {
  ...named(OWN_TABLE, ...["deltaRule", "gatedDeltaRule", "kda", "gatedLinearAttention", "linearAttention"]),
  ...named(OWN_TABLE, ...["retention", "gatedRetention", "ssd", "lru", "s4d", "s5", "h3", "gatedLongConv"]),
  ...named(OWN_TABLE, ...["selectiveScan", "rgLru", "wkv", "rwkv6", "LinearAttention", "GatedRetention"]),
  ...named(OWN_TABLE, ...["MultiScaleRetention", "Lru", "S4d", "S5", "H3", "GatedLongConv", "MambaBlock"]),
  ...named(
    OWN_TABLE,
    ...["Mamba2Block", "GatedDeltaNet", "GriffinBlock", "Rwkv4TimeMix", "Rwkv4ChannelMix", "Rwkv6TimeMix"],
  ),
  ...named(CONFIGURED, "RecurrentMemoryTransformer", "TransformerXl", "TransformerXlAttention"),
  ...named(CONFIGURED, "Yoco", "YocoCrossAttention", "MemorizingAttention"),
  YocoKeyValues: "the contract of components calls it; its configuration has the keys of YocoCrossAttention",
  ...named(MADE, "SequenceState", "RmtState", "YocoCache", "MemorizingState", "TransformerXlState"),
};
