import {
  boolean,
  concat,
  ConfigError,
  expectShape,
  integer,
  nested,
  schema,
  slice,
  tensor,
  value,
  type Config,
  type Tensor,
} from "@x/kernels";
import { attention } from "../engine/attention.js";
import { COMMON_FIELDS, type AttentionOptions } from "../engine/options.js";
import { POSITION_FIELDS } from "./fields.js";
import { KVCache } from "./kv_cache.js";
import { checkDecodable } from "../patterns/pattern.js";

const DOCS = schema("docs", {
  ids: tensor("i32 [batch, seq]: the document of each new token."),
  first: integer("Number of tokens before them.", { min: 0 }),
});
const DISTANCES = schema("distances", {
  min: integer("Least query position - key position."),
  max: integer("Greatest query position - key position."),
});
const OPTIONS = schema("cachedAttention", {
  ...COMMON_FIELDS,
  causal: boolean("Hides keys after the query.", { default: true }),
  positions: POSITION_FIELDS.positions,
  keyMask: tensor("i32 [batch, seq] of the new tokens: keys with 0 are never seen.", { optional: true }),
  docs: nested(DOCS, "Packed documents of tokens that are counted; not with a ring.", { optional: true }),
  distances: nested(DISTANCES, "Bounds of the distances, for modifiers that look them up.", {
    optional: true,
  }),
});
export type CachedAttentionOptions = Config<typeof OPTIONS>;

const CACHE = value(
  "Keys and values of the tokens so far.",
  "a KVCache",
  (given: unknown): given is KVCache => given instanceof KVCache,
);

/** Attention over keys and values of any length, in the layout "bshd". */
type Attend = (q: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions) => Tensor;

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
  options: CachedAttentionOptions = {},
): Tensor {
  const { name: who } = OPTIONS;
  const read = OPTIONS.read(options);
  CACHE.check(who, "cache", cache);
  return attendCached(who, [q, k, v], cache, read, attention);
}

/** `cachedAttention` by another attention: `attend` is called for each piece that the cache takes at a time. */
export function attendCached(
  who: string,
  [q, k, v]: readonly [Tensor, Tensor, Tensor],
  cache: KVCache,
  { positions, keyMask, docs, distances, ...options }: CachedAttentionOptions,
  attend: Attend,
): Tensor {
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
    return attend(a, cache.keys, cache.values, {
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
