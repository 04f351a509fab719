import {
  Component,
  concat,
  ConfigError,
  expectDType,
  expectInteger,
  expectNumber,
  expectShape,
  expectTensor,
  gather,
  integer,
  number,
  ones,
  schema,
  slice,
  Tensor,
  tensor,
  value,
  type Config,
  type ParameterPlan,
  type Parameters,
  type State,
  type Stateful,
} from "@x/kernels";
import {
  BLOCK_FIELDS,
  blockContext,
  blockPlan,
  blocks,
  contextHeads,
  expectTokens,
  layersOf,
  layersPlan,
  type BlockContext,
} from "../block/block.js";
import { cachedAttention } from "../cache/cached_attention.js";
import { POSITION_FIELDS, STATE_FIELDS } from "../cache/fields.js";
import { KVCache } from "../cache/kv_cache.js";
import { attention } from "../engine/attention.js";
import type { Parts } from "../block/parts.js";

const SLED = schema("Sled", {
  ...BLOCK_FIELDS,
  layers: integer("Encoder layers.", { min: 0 }),
  decLayers: integer("Decoder layers.", { min: 0 }),
  contextSize: integer("Tokens of a window.", { min: 1 }),
  windowFraction: number("Share of a window whose rows are kept.", { min: Number.MIN_VALUE, max: 1 }),
  prefixLen: integer("Leading tokens of x (a question) that are put before every window.", {
    min: 0,
    default: 0,
  }),
});
export type SledConfig = Config<typeof SLED>;

const KEY_MASK = {
  keyMask: tensor("i32 [batch, prefixLen + length]: 1 is a token, 0 padding.", { optional: true }),
};
const ENCODE = schema("Sled.encode", KEY_MASK);
const OPTIONS = schema("Sled.forward", {
  y: tensor("The decoder's input, [batch, t, dim]."),
  ...KEY_MASK,
});
const CONTEXT = schema("Sled.contextCache", KEY_MASK);
const STATE = schema("Sled.createState", STATE_FIELDS);
const DECODE = schema("Sled.decode", {
  context: value(
    "What `encode` returns, [batch, keys, dim], or its keys and values from `contextCache`.",
    "a tensor, or what contextCache returns",
    (given: unknown): given is Tensor | SledContext =>
      Tensor.isInstance(given) || given instanceof SledContext,
  ),
  ...KEY_MASK,
  state: value(
    "Keys and values of the decoder's tokens so far, which the call adds to.",
    "what createState returns",
    (given: unknown): given is SledState => given instanceof SledState,
    { optional: true },
  ),
  positions: POSITION_FIELDS.positions,
});
export type SledOptions = Config<typeof OPTIONS>;
export type SledDecodeOptions = Config<typeof DECODE>;

/** A window [start, end) of a document, and the rows [keepStart, keepEnd) that are taken from it. */
export interface SledWindow {
  readonly start: number;
  readonly end: number;
  readonly keepStart: number;
  readonly keepEnd: number;
}

/**
 * Windows over a document of `length` tokens: one if it fits; else every contextSize - 2 margin tokens,
 * margin = floor(contextSize (1 - windowFraction) / 2), the last moved back to be full. Each keeps its middle.
 *
 * @throws ConfigError
 */
export function sledWindows(length: number, contextSize: number, windowFraction: number): SledWindow[] {
  const who = "sledWindows";
  expectInteger(who, "length", length, 1);
  expectInteger(who, "contextSize", contextSize, 1);
  expectNumber(who, "windowFraction", windowFraction, 0, 1);
  if (length <= contextSize) return [{ start: 0, end: length, keepStart: 0, keepEnd: length }];
  const margin = Math.floor((contextSize * (1 - windowFraction)) / 2);
  const stride = contextSize - 2 * margin;
  if (stride < 1)
    throw new ConfigError(
      who,
      `windows of ${contextSize} with windowFraction ${windowFraction} keep nothing; raise windowFraction`,
    );
  const windows: SledWindow[] = [];
  for (let start = 0, kept = 0; ; start += stride) {
    const last = start + contextSize >= length;
    const from = last ? length - contextSize : start;
    const keepEnd = last ? length : from + contextSize - margin;
    windows.push({ start: from, end: from + contextSize, keepStart: kept, keepEnd });
    if (last) return windows;
    kept = keepEnd;
  }
}

/** Keys and values of an encoded document in every decoder layer, each [batch, keys, heads, headDim]. */
export class SledContext {
  readonly layers: readonly { readonly keys: Tensor; readonly values: Tensor }[];
  /** i32 [batch, keys] */
  readonly keyMask: Tensor | undefined;

  constructor(layers: SledContext["layers"], keyMask: Tensor | undefined) {
    this.layers = layers;
    this.keyMask = keyMask;
  }

  /** Frees keys and values; the mask is the caller's. */
  dispose(): void {
    for (const { keys, values } of this.layers) {
      keys.dispose();
      values.dispose();
    }
  }
}

/** A cache for every decoder layer. */
export class SledState implements State {
  readonly layers: readonly KVCache[];

  constructor(layers: readonly KVCache[]) {
    this.layers = layers;
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    return this.layers.reduce((n, cache) => n + cache.bytes, 0);
  }

  /** Bytes of keys and values that one token takes in all layers. */
  get bytesPerToken(): number {
    return this.layers.reduce((n, cache) => n + cache.bytesPerToken, 0);
  }

  /** Forgets the decoder's tokens. */
  clear(): void {
    for (const cache of this.layers) cache.clear();
  }

  dispose(): void {
    for (const cache of this.layers) cache.dispose();
  }
}

/**
 * SLED: a short-context encoder runs on overlapping windows of a long document (all windows at once, as a batch), each
 * giving its middle rows; the decoder attends to all of them.
 *
 * x [batch, prefixLen + length, dim] and y [batch, t, dim], f32. Parameters layers.<l>.*, norm, decoder.<l>.* (with
 * cross_attn), decoder_norm; matrices initially normal, norms ones. Ivgi et al. 2023, arXiv:2208.00748, section 3.
 */
export class Sled extends Component<typeof SLED> implements Stateful<SledState> {
  static readonly schema = SLED;
  readonly #block: BlockContext;
  readonly #encoder: readonly Parameters[];
  readonly #decoder: readonly Parameters[];

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: SledConfig, parameters: Parameters, parts: Parts = {}) {
    super(SLED, config, Sled.plan(config), parameters);
    this.#block = blockContext(SLED.name, this.config, parts);
    this.#encoder = layersOf(this.weights, "layers", this.config.layers);
    this.#decoder = layersOf(this.weights, "decoder", this.config.decLayers);
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: SledConfig): ParameterPlan {
    const { dim, layers, decLayers, contextSize, windowFraction } = SLED.read(config);
    sledWindows(contextSize + 1, contextSize, windowFraction);
    return {
      ...layersPlan("layers", layers, blockPlan(config)),
      "norm.weight": ones(dim),
      ...layersPlan("decoder", decLayers, blockPlan(config, true)),
      "decoder_norm.weight": ones(dim),
    };
  }

  /**
   * Encodes x [batch, prefixLen + length, dim] window by window; returns the same shape.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  encode(x: Tensor, options: Config<typeof ENCODE> = {}): Tensor {
    const { name: who } = SLED;
    const { keyMask } = ENCODE.read(options);
    const { dim, contextSize, windowFraction, prefixLen } = this.config;
    const { batch, all } = expectShape(who, "x", x, ["batch", "all", dim]) as { batch: number; all: number };
    if (all <= prefixLen)
      throw new ConfigError(who, `x has ${all} tokens; there must be more than prefixLen, ${prefixLen}`);
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, [batch, all]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    const windows = sledWindows(all - prefixLen, contextSize, windowFraction);
    return x.gpu.scope(() => {
      const width = windows[0]!.end - windows[0]!.start;
      const rows = prefixLen + width;
      const count = windows.length;
      const prefix = Array.from({ length: prefixLen }, (_, i) => i);
      const ids = windows.flatMap(({ start }) => [
        ...prefix,
        ...Array.from({ length: width }, (_, i) => prefixLen + start + i),
      ]);
      const kept = windows.flatMap(({ start, keepStart, keepEnd }, w) =>
        Array.from({ length: keepEnd - keepStart }, (_, i) => w * rows + prefixLen + keepStart + i - start),
      );
      const index = (list: readonly number[], shape: readonly number[]): Tensor =>
        x.gpu.tensor(list, shape, "i32");
      const take = index(ids, [count, rows]);
      const z = gather(x, take, 1).reshape([batch * count, rows, dim]);
      const mask = keyMask && gather(keyMask, take, 1).reshape([batch * count, rows]);
      const encoded = this.#encodeRows(z, mask).reshape([batch, count * rows, dim]);
      const document = gather(encoded, index(kept, [kept.length]), 1);
      if (prefixLen === 0) return document;
      const first = { axis: 1, end: prefixLen };
      const question = this.#encodeRows(slice(x, first), keyMask && slice(keyMask, first));
      return concat([question, document], 1);
    });
  }

  #encodeRows(z: Tensor, keyMask: Tensor | undefined): Tensor {
    const h = blocks(z, this.#encoder, this.#block, (q, k, v) =>
      attention(q, k, v, { layout: "bshd", keyMask }),
    );
    return this.#block.norm(h, this.weights["norm.weight"]!);
  }

  /**
   * Keys and values of an encoded document [batch, keys, dim], for any number of calls of `decode`.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  contextCache(encoded: Tensor, options: Config<typeof CONTEXT> = {}): SledContext {
    const { name: who } = CONTEXT;
    const { keyMask } = CONTEXT.read(options);
    this.#checkContext(who, encoded, keyMask);
    const { gpu } = encoded;
    const layers = gpu.scope(() =>
      this.#decoder.map((p) => {
        const { keys, values } = contextHeads(encoded, p, this.#block);
        return { keys: gpu.keep(keys), values: gpu.keep(values) };
      }),
    );
    return new SledContext(layers, keyMask);
  }

  #checkContext(who: string, encoded: Tensor, keyMask: Tensor | undefined): void {
    const { dim } = this.config;
    const { batch, keys } = expectShape(who, "context", encoded, ["batch", "keys", dim]) as {
      batch: number;
      keys: number;
    };
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, [batch, keys]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
  }

  /** An empty state of the decoder. @throws ConfigError */
  createState(options: Config<typeof STATE>): SledState {
    const { numHeads: numKvHeads, headDim, decLayers } = this.config;
    const { gpu } = this.weights["norm.weight"]!;
    const own = { ...STATE.read(options), numKvHeads, headDim };
    return new SledState(Array.from({ length: decLayers }, () => new KVCache(gpu, own)));
  }

  /**
   * Decodes y [batch, t, dim] against an encoded document; returns the same shape.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  decode(y: Tensor, options: SledDecodeOptions): Tensor {
    const { name: who } = DECODE;
    const { context, keyMask, state, positions } = DECODE.read(options);
    const { seq } = expectShape(who, "y", y, ["batch", "seq", this.config.dim]) as { seq: number };
    expectTokens(who, seq, "y");
    if (positions !== undefined && !state)
      throw new ConfigError(who, "positions are given without a state; rows are then counted from 0");
    const held = context instanceof SledContext ? context : undefined;
    if (held && keyMask) throw new ConfigError(who, "keyMask is given; contextCache took the context's");
    if (Tensor.isInstance(context)) this.#checkContext(who, context, keyMask);
    return y.gpu.scope(() => {
      const ids = state?.layers[0]?.place(seq, positions);
      const h = blocks(
        y,
        this.#decoder,
        this.#block,
        (q, k, v, l) =>
          state
            ? cachedAttention(q, k, v, state.layers[l]!, { positions: ids })
            : attention(q, k, v, { causal: true, layout: "bshd" }),
        (q, p, l) => {
          const { keys, values } = held?.layers[l] ?? contextHeads(context as Tensor, p, this.#block);
          return attention(q, keys, values, { layout: "bshd", keyMask: keyMask ?? held?.keyMask });
        },
      );
      return this.#block.norm(h, this.weights["decoder_norm.weight"]!);
    });
  }

  /** The decoder's rows for y, [batch, t, dim]. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: SledOptions): Tensor {
    expectTensor(SLED.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /**
   * The encoded document [batch, prefixLen + length, dim], and the decoder's rows for y.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  outputs(x: Tensor, options: SledOptions): { encoded: Tensor; out: Tensor } {
    const { y, keyMask } = OPTIONS.read(options);
    expectTensor(SLED.name, "x", x);
    return x.gpu.scope(() => {
      const encoded = this.encode(x, { keyMask });
      return { encoded, out: this.decode(y, { context: encoded, keyMask }) };
    });
  }
}
