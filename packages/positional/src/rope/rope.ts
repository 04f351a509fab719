import { checkConfig, ConfigError, expectInteger, expectOneOf, type Gpu, type Tensor } from "@x/kernels";
import type { RopeFrequencies } from "./frequencies.js";
import { ropeFrequencies, resolveRope, type ResolvedRope, type RopeConfig } from "./resolve.js";
import { turnPairs, type HeadLayout, type Rotation } from "./rotate.js";

export interface RopeApplyOptions {
  /** Position of the first token; default 0. */
  readonly positionOffset?: number;
  /** Positions of the tokens, [seq] or batch after batch [batch * seq]; any ids, on the host. */
  readonly positions?: ArrayLike<number> | undefined;
  /** i32 [batch, seq] on the GPU; all below `maxPositions`. */
  readonly positionIds?: Tensor | undefined;
  /**
   * Length of the whole sequence, cache included: what dynamicNtk and longrope look at. Default: largest position + 1.
   * Keys that were turned for another length are stale where `changes` says so.
   */
  readonly seqLen?: number;
  /** With `positionIds`: the rows of the tables, which can stay as the sequence grows. Default: `seqLen`. */
  readonly maxPositions?: number;
  /** Default "bhsd": [batch, heads, seq, headDim]. */
  readonly layout?: HeadLayout;
}

/** cos and sin of position * invFreq times f, in double precision, rounded once. */
export function rotaryTables(
  gpu: Gpu,
  positions: ArrayLike<number>,
  { invFreq, attentionFactor }: RopeFrequencies,
  scale?: (position: number, pair: number) => number,
): { cos: Tensor; sin: Tensor } {
  const n = invFreq.length;
  const [cos, sin] = [new Float32Array(positions.length * n), new Float32Array(positions.length * n)];
  for (let p = 0; p < positions.length; p++)
    for (let i = 0; i < n; i++) {
      const angle = positions[p]! * invFreq[i]!;
      const f = attentionFactor * (scale ? scale(positions[p]!, i) : 1);
      cos[p * n + i] = f * Math.cos(angle);
      sin[p * n + i] = f * Math.sin(angle);
    }
  const shape = [positions.length, n];
  return { cos: gpu.tensor(cos, shape), sin: gpu.tensor(sin, shape) };
}

/** Positions of a call as a list, checked: any integers. */
export function checkPositions(
  who: string,
  positions: ArrayLike<number>,
  batch: number,
  seq: number,
): { rows: ArrayLike<number>; perBatch: boolean; largest: number } {
  const perBatch = positions.length !== seq;
  if (perBatch && positions.length !== batch * seq) {
    throw new ConfigError(
      who,
      `positions has ${positions.length} entries; it must have ${seq} or ${batch * seq}`,
    );
  }
  let largest = 0;
  for (let i = 0; i < positions.length; i++) {
    expectInteger(who, "positions", positions[i], -Infinity);
    largest = Math.max(largest, positions[i]!);
  }
  return { rows: positions, perBatch, largest };
}

/** i32 [batch, seq] that counts the rows of a table made for the call. */
export function rowNumbers(gpu: Gpu, batch: number, seq: number, perBatch: boolean): Tensor {
  const ids = Int32Array.from({ length: batch * seq }, (_, i) => (perBatch ? i : i % seq));
  return gpu.tensor(ids, [batch, seq], "i32");
}

/**
 * Rotary position embedding: the pair (x, y) of features i turns by a = position invFreq_i, so that q.k depends on
 * the distance only: x' = f (x cos a - y sin a), y' = f (y cos a + x sin a), invFreq_i = base^(-2 i / rotaryDim)
 * before scaling.
 *
 * q, k [batch, heads, seq, headDim], f32 or f16. Su et al. 2021, arXiv:2104.09864, equations 14, 15, 34.
 *
 * Tables are computed on the host in double precision and kept on the device; they grow as positions do.
 */
export class RotaryEmbedding {
  readonly config: ResolvedRope;
  readonly #gpu: Gpu;
  #table:
    { readonly cos: Tensor; readonly sin: Tensor; readonly rows: number; readonly key: string } | undefined;

  /** @throws ConfigError */
  constructor(gpu: Gpu, config: RopeConfig) {
    this.#gpu = gpu;
    this.config = resolveRope("RotaryEmbedding", config);
    ropeFrequencies(this.config);
  }

  /** Frequencies for a sequence of `seqLen` tokens. */
  frequencies(seqLen = 0): RopeFrequencies {
    return ropeFrequencies(this.config, seqLen);
  }

  /**
   * Whether the frequencies of a sequence of `to` tokens are others than those of `from` tokens: what was computed from
   * keys turned for `from` tokens is then stale, in every layer above the first, and has to be computed anew.
   */
  changes(from: number, to: number): boolean {
    const [a, b] = [this.frequencies(from), this.frequencies(to)];
    return a.attentionFactor !== b.attentionFactor || a.invFreq.some((x, i) => x !== b.invFreq[i]);
  }

  /** Tables of positions 0..rows-1, built once and doubled when outgrown. */
  #rows(rows: number, seqLen: number): { cos: Tensor; sin: Tensor } {
    const frequencies = this.frequencies(seqLen);
    const key = frequencies.invFreq.join() + String(frequencies.attentionFactor);
    const held = this.#table;
    if (held && held.key === key && held.rows >= rows && !held.cos.disposed) return held;
    const outgrown = held && held.rows < rows ? Math.min(2 * held.rows, 2 * rows) : 0;
    const size = Math.max(rows, 64, outgrown);
    const tables = rotaryTables(
      this.#gpu,
      Int32Array.from({ length: size }, (_, i) => i),
      frequencies,
    );
    this.dispose();
    this.#table = { cos: this.#gpu.keep(tables.cos), sin: this.#gpu.keep(tables.sin), rows: size, key };
    return this.#table;
  }

  /** Rotate queries or keys. @throws ShapeError, DTypeError, ConfigError */
  apply(x: Tensor, options: RopeApplyOptions = {}): Tensor {
    return this.#turn([x], options)[0]!;
  }

  /**
   * Rotate queries and keys in one pass: each angle is read once for all heads of both. They have the same tokens;
   * the heads may differ.
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  applyQK(q: Tensor, k: Tensor, options: RopeApplyOptions = {}): [Tensor, Tensor] {
    return this.#turn([q, k], options) as [Tensor, Tensor];
  }

  #turn(tensors: readonly Tensor[], options: RopeApplyOptions): Tensor[] {
    const who = "rope";
    checkConfig(who, options, [
      "positionOffset",
      "positions",
      "positionIds",
      "seqLen",
      "maxPositions",
      "layout",
    ]);
    const { positionOffset = 0, positions, positionIds, layout = "bhsd" } = options;
    expectInteger(who, "positionOffset", positionOffset, 0);
    expectOneOf(who, "layout", layout, ["bhsd", "bshd"]);
    if (options.seqLen !== undefined) expectInteger(who, "seqLen", options.seqLen, 1);
    const [x] = tensors as [Tensor];
    const batch = x.shape[0] ?? 0;
    const seq = x.shape[layout === "bhsd" ? 2 : 1] ?? 0;
    const interleaved = this.config.layout === "interleaved";
    if (x.shape.at(-1) !== this.config.headDim) {
      throw new ConfigError(
        who,
        `x has ${x.shape.at(-1) ?? 0} features a head; headDim is ${this.config.headDim}`,
      );
    }
    if (options.maxPositions !== undefined) {
      expectInteger(who, "maxPositions", options.maxPositions, 1);
      if (!positionIds)
        throw new ConfigError(who, "maxPositions is given without positionIds, whose tables it sizes");
    }
    if (positions && positionIds)
      throw new ConfigError(
        who,
        "positions and positionIds are both given; one of them says where tokens are",
      );
    if (positions) {
      const { rows, perBatch, largest } = checkPositions(who, positions, batch, seq);
      return this.#gpu.scope(() => {
        const tables = rotaryTables(this.#gpu, rows, this.frequencies(options.seqLen ?? largest + 1));
        const ids = rowNumbers(this.#gpu, batch, seq, perBatch);
        return turnPairs(who, tensors, { ...tables, interleaved, positions: ids }, layout);
      });
    }
    let rotation: Rotation;
    if (positionIds) {
      const { seqLen } = options;
      expectInteger(who, "seqLen (with positionIds)", seqLen, 1);
      const rows = options.maxPositions ?? seqLen;
      rotation = { ...this.#rows(rows, seqLen), interleaved, positions: positionIds };
    } else {
      const end = positionOffset + seq;
      rotation = { ...this.#rows(end, options.seqLen ?? end), interleaved, offset: positionOffset };
    }
    return turnPairs(who, tensors, rotation, layout);
  }

  /** Free the tables. */
  dispose(): void {
    this.#table?.cos.dispose();
    this.#table?.sin.dispose();
    this.#table = undefined;
  }
}
