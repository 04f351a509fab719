import {
  ConfigError,
  expectDType,
  expectGpu,
  expectShape,
  integer,
  schema,
  type Config,
  type Gpu,
  type State,
  type Tensor,
} from "@x/kernels";
import type { AttentionPositions } from "../engine/options.js";
import { STATE_FIELDS } from "./fields.js";
import { Slots, type TextRotation, type TokenPositions } from "./slots.js";

const KV_CACHE = schema("KVCache", {
  ...STATE_FIELDS,
  numKvHeads: integer("Heads of keys and values.", { min: 1 }),
  headDim: integer("Features of a key head.", { min: 1 }),
  valueDim: integer("Features of a value head.", { min: 1, defaultDoc: "headDim" }),
  window: integer("Keys that a query sees, its own included; the cache is then a ring.", {
    min: 1,
    optional: true,
  }),
  maxChunk: integer("Most tokens appended at a time; a ring has window - 1 + maxChunk slots.", {
    min: 1,
    default: 64,
  }),
});
export type KVCacheConfig = Config<typeof KV_CACHE>;

/**
 * Keys and values of the tokens so far, as tensors of fixed size, so that a decoding step can be recorded: rows are
 * found by position, and a slot that is empty has position -1. With a window it is a ring that never grows.
 *
 * keys [batch, slots, kvHeads, headDim], values [batch, slots, kvHeads, valueDim] ("bshd").
 */
export class KVCache implements State {
  readonly config: KVCacheConfig;
  readonly slots: number;
  /** Most tokens that `append` takes at a time. */
  readonly maxChunk: number;
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly #gpu: Gpu;
  readonly #slots: Slots;
  #docs: Tensor | undefined;

  /** @throws ConfigError */
  constructor(gpu: Gpu, config: KVCacheConfig) {
    expectGpu(KV_CACHE.name, gpu);
    const {
      batch,
      numKvHeads,
      headDim,
      valueDim = headDim,
      maxLength,
      window,
      maxChunk,
      dtype,
    } = KV_CACHE.read(config);
    this.config = config;
    this.#gpu = gpu;
    this.slots = window === undefined ? maxLength : Math.min(maxLength, window - 1 + maxChunk);
    this.maxChunk = window === undefined ? maxLength : Math.min(maxChunk, this.slots);
    this.keys = gpu.keep(gpu.zeros([batch, this.slots, numKvHeads, headDim], dtype));
    this.values = gpu.keep(gpu.zeros([batch, this.slots, numKvHeads, valueDim], dtype));
    this.#slots = new Slots(gpu, { batch, slots: this.slots, maxLength });
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    const { keys, values } = this;
    return keys.byteLength + values.byteLength + this.#slots.bytes + (this.#docs?.byteLength ?? 0);
  }

  /** Bytes of keys and values that one token takes: 2 kvHeads headDim numbers. */
  get bytesPerToken(): number {
    return (this.keys.byteLength + this.values.byteLength) / this.slots / this.config.batch;
  }

  /** Tokens so far; undefined once positions came from the device. */
  get length(): number | undefined {
    return this.#slots.length;
  }

  /** Length of the text that the tokens so far were rotated for; undefined while there are none. */
  get textLength(): number | undefined {
    return this.#slots.textLength;
  }

  /**
   * The positions of the next `seq` tokens as a tensor, counted on from `length` or as given, for what needs them
   * before the keys are known. `append` takes what it gives. `rotation` says how keys depend on the text's length.
   *
   * @throws ConfigError when they do not fit, and when `rotation` makes the keys held stale
   */
  place(seq: number, positions?: TokenPositions, rotation?: TextRotation): Tensor {
    return this.#slots.place("KVCache", seq, positions, rotation);
  }

  /**
   * Store k and v [batch, seq, kvHeads, dim] of the next tokens, or of those at `positions`; a key that `keyMask`
   * (i32 [batch, seq]) hides is never seen. Gives the positions that attention over the cache needs.
   *
   * @throws ConfigError when they do not fit, ShapeError
   */
  append(k: Tensor, v: Tensor, positions?: TokenPositions, keyMask?: Tensor): AttentionPositions {
    const who = "KVCache.append";
    const [batch, , heads, dim] = this.keys.shape as [number, number, number, number];
    const { seq } = expectShape(who, "k", k, [batch, "seq", heads, dim]) as { seq: number };
    expectShape(who, "v", v, [batch, seq, heads, this.values.shape[3]!]);
    expectDType(who, "v", v, k.dtype);
    if (keyMask !== undefined) {
      expectShape(who, "keyMask", keyMask, [batch, seq]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    if (seq > this.maxChunk)
      throw new ConfigError(who, `given ${seq} tokens; the cache takes at most ${this.maxChunk} at a time`);
    const at = this.#slots.place(who, seq, positions);
    this.#slots.store(at, { rows: k, slots: this.keys }, { rows: v, slots: this.values }, keyMask);
    return this.#slots.positions(who, at);
  }

  /** Store the document of each token that was appended, i32 [batch, seq]; gives those of all slots, [batch, slots]. */
  appendDocs(docs: Tensor, positions: Tensor): Tensor {
    const who = "KVCache.appendDocs";
    const { batch } = this.config;
    const { seq } = expectShape(who, "positions", positions, [batch, "seq"]) as { seq: number };
    expectDType(who, "positions", positions, "i32");
    expectShape(who, "docs", docs, [batch, seq]);
    expectDType(who, "docs", docs, "i32");
    this.#docs ??= this.#gpu.keep(this.#gpu.full([batch, this.slots], -1, "i32"));
    this.#slots.annotate(positions, { rows: docs, slots: this.#docs });
    return this.#docs;
  }

  /** Columns start..end of positions that `place` gave; they stay counted. */
  part(positions: Tensor, start: number, end: number): Tensor {
    return this.#slots.part("KVCache.part", positions, start, end);
  }

  /** What attention over the cache needs to know of positions. */
  positions(query: Tensor): AttentionPositions {
    return this.#slots.positions("KVCache.positions", query);
  }

  /**
   * Row b of the batch becomes what row rows[b] was, for beam search; rows i32 [batch]. A row outside 0..batch-1 makes
   * keys and values NaN.
   *
   * @throws ShapeError, DTypeError
   */
  reorder(rows: Tensor): void {
    const held = [this.keys, this.values, ...(this.#docs ? [this.#docs] : [])];
    this.#slots.reorder("KVCache.reorder", rows, held);
  }

  /** Forget everything. */
  clear(): void {
    this.#slots.clear();
  }

  dispose(): void {
    for (const t of [this.keys, this.values, this.#docs, this.#slots]) t?.dispose();
  }
}
