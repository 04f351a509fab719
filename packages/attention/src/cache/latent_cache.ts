import {
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

const LATENT_CACHE = schema("LatentCache", {
  ...STATE_FIELDS,
  kvRank: integer("Size of the latent of keys and values.", { min: 1 }),
  ropeDim: integer("Features of the rotated key.", { min: 1 }),
});
export type LatentCacheConfig = Config<typeof LATENT_CACHE>;

/**
 * MLA's cache: the latent and the rotated key of each token side by side, kvRank + ropeDim numbers however many heads
 * there are. The rows are the keys of absorbed attention, and their first kvRank numbers its values.
 *
 * rows [batch, slots, 1, kvRank + ropeDim].
 */
export class LatentCache implements State {
  readonly config: LatentCacheConfig;
  readonly rows: Tensor;
  readonly #slots: Slots;

  /** @throws ConfigError */
  constructor(gpu: Gpu, config: LatentCacheConfig) {
    expectGpu(LATENT_CACHE.name, gpu);
    const { batch, kvRank, ropeDim, maxLength, dtype } = LATENT_CACHE.read(config);
    this.config = config;
    this.rows = gpu.keep(gpu.zeros([batch, maxLength, 1, kvRank + ropeDim], dtype));
    this.#slots = new Slots(gpu, { batch, slots: maxLength, maxLength });
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    return this.rows.byteLength + this.#slots.bytes;
  }

  get bytesPerToken(): number {
    return this.rows.byteLength / this.config.maxLength / this.config.batch;
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
   * The positions of the next `seq` tokens, counted or given, as a tensor.
   *
   * @throws ConfigError when they do not fit, and when `rotation` makes the keys held stale
   */
  place(seq: number, positions?: TokenPositions, rotation?: TextRotation): Tensor {
    return this.#slots.place("LatentCache", seq, positions, rotation);
  }

  /** Store rows [batch, seq, 1, kvRank + ropeDim] of the tokens at positions that `place` gave. */
  append(rows: Tensor, positions: Tensor): AttentionPositions {
    const who = "LatentCache.append";
    const { batch, kvRank, ropeDim } = this.config;
    const { seq } = expectShape(who, "positions", positions, [batch, "seq"]) as { seq: number };
    expectDType(who, "positions", positions, "i32");
    expectShape(who, "rows", rows, [batch, seq, 1, kvRank + ropeDim]);
    expectDType(who, "rows", rows, "f32", "f16");
    this.#slots.store(positions, { rows, slots: this.rows });
    return this.#slots.positions(who, positions);
  }

  /**
   * Row b of the batch becomes what row rows[b] was, for beam search; rows i32 [batch]. A row outside 0..batch-1 makes
   * latents NaN.
   *
   * @throws ShapeError, DTypeError
   */
  reorder(rows: Tensor): void {
    this.#slots.reorder("LatentCache.reorder", rows, [this.rows]);
  }

  /** Forget everything. */
  clear(): void {
    this.#slots.clear();
  }

  dispose(): void {
    this.rows.dispose();
    this.#slots.dispose();
  }
}
