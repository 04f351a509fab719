import { checkConfig, expectInteger, expectShape, type Gpu, type State, type Tensor } from "@x/kernels";
import type { AttentionPositions } from "../engine/options.js";
import { Slots, type TextRotation, type TokenPositions } from "./slots.js";

export interface LatentCacheConfig {
  readonly batch: number;
  readonly kvRank: number;
  readonly ropeDim: number;
  /** Tokens of the longest sequence. */
  readonly maxLength: number;
  readonly dtype?: "f32" | "f16";
}

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
    const who = "LatentCache";
    checkConfig(who, config, ["batch", "kvRank", "ropeDim", "maxLength", "dtype"]);
    const { batch, kvRank, ropeDim, maxLength, dtype = "f32" } = config;
    for (const [name, n] of Object.entries({ batch, kvRank, ropeDim, maxLength }))
      expectInteger(who, name, n, 1);
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
    expectShape(who, "rows", rows, [batch, seq, 1, kvRank + ropeDim]);
    this.#slots.store(positions, { rows, slots: this.rows });
    return this.#slots.positions(positions);
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
