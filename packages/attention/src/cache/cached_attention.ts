import { checkConfig, concat, ConfigError, expectObject, expectShape, slice, type Tensor } from "@x/kernels";
import { attention } from "../engine/attention.js";
import { OPTIONS, type AttentionOptions } from "../engine/options.js";
import type { KVCache } from "./kv_cache.js";
import { checkDecodable } from "../patterns/pattern.js";
import type { TokenPositions } from "./slots.js";

export interface CachedAttentionOptions extends Omit<
  AttentionOptions,
  "positions" | "layout" | "queryOffset" | "docs" | "weightSums" | "keyMask"
> {
  /** Positions of the new tokens; default: counted on from the cache's length. */
  readonly positions?: TokenPositions;
  /** i32 [batch, seq] of the new tokens: keys with 0 are never seen. */
  readonly keyMask?: Tensor | undefined;
  /** Packed documents: i32 [batch, seq] of the new tokens, counted on from `first`; not with a ring. */
  readonly docs?: { readonly ids: Tensor; readonly first: number } | undefined;
  /** Smallest and largest query position - key position, for modifiers that look distances up. */
  readonly distances?: { readonly min: number; readonly max: number } | undefined;
}

const OPTIONS_OF_CACHES = [
  ...OPTIONS.filter((name) => !["layout", "queryOffset", "weightSums"].includes(name)),
  "distances",
];

/**
 * Causal attention of new tokens over a cache: append their keys and values, then attend to all that the cache
 * holds. Outputs are those of one run over the whole sequence. A ring takes a long prompt in pieces of its maxChunk.
 *
 * q [batch, seq, heads, headDim], k and v [batch, seq, kvHeads, dim]; gives [batch, seq, heads, valueDim].
 *
 * @throws ConfigError when the cache is full, ShapeError
 */
export function cachedAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  cache: KVCache,
  { positions, keyMask, docs, distances, ...options }: CachedAttentionOptions = {},
): Tensor {
  const who = "cachedAttention";
  checkConfig(who, { positions, keyMask, docs, distances, ...options }, OPTIONS_OF_CACHES);
  expectObject(who, "cache", cache);
  const { batch, numKvHeads, headDim, valueDim = headDim } = cache.config;
  const { seq } = expectShape(who, "q", q, [batch, "seq", null, headDim]) as { seq: number };
  expectShape(who, "k", k, [batch, seq, numKvHeads, headDim]);
  expectShape(who, "v", v, [batch, seq, numKvHeads, valueDim]);
  if (keyMask) expectShape(who, "keyMask", keyMask, [batch, seq]);
  if (docs) expectShape(who, "docs.ids", docs.ids, [batch, seq]);
  const reach = cache.config.window;
  const window = options.window ?? (reach === undefined ? undefined : { left: reach - 1, right: 0 });
  if (reach !== undefined && window && (window.left < 0 || window.left >= reach))
    throw new ConfigError(
      who,
      `the window sees ${window.left} keys to the left; the cache is a ring for a window of ${reach}`,
    );
  if (options.pattern && !("wgsl" in options.pattern)) checkDecodable(who, options.pattern);
  if (docs && reach !== undefined)
    throw new ConfigError(who, "docs are given; a ring does not keep the documents of its tokens");
  const piece = (a: Tensor, b: Tensor, c: Tensor, at: Tensor, kept: Tensor | undefined): Tensor => {
    const where = cache.append(b, c, at, kept);
    return attention(a, cache.keys, cache.values, {
      causal: true,
      ...options,
      ...(docs ? { docs: cache.appendDocs(docs.ids, at), queryOffset: docs.first } : {}),
      window,
      layout: "bshd",
      positions: {
        ...where,
        ...(distances ? { minDistance: distances.min, maxDistance: distances.max } : {}),
      },
    });
  };
  return q.gpu.scope(() => {
    const ids = cache.place(seq, positions);
    if (seq <= cache.maxChunk) return piece(q, k, v, ids, keyMask);
    if (options.bias || options.mask)
      throw new ConfigError(who, `bias and mask cannot go with ${seq} tokens, more than maxChunk, in a ring`);
    const outs: Tensor[] = [];
    for (let start = 0; start < seq; start += cache.maxChunk) {
      const end = Math.min(seq, start + cache.maxChunk);
      const cut = (t: Tensor): Tensor => slice(t, { axis: 1, start, end });
      outs.push(piece(cut(q), cut(k), cut(v), cache.part(ids, start, end), keyMask && cut(keyMask)));
    }
    return concat(outs, 1);
  });
}
