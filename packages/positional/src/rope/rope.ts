import {
  Component,
  ConfigError,
  expectDType,
  expectInteger,
  integer,
  oneOf,
  schema,
  type Config,
  type Gpu,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkPositions, hostPositions, POSITIONS } from "../positions.js";
import type { RopeFrequencies } from "./frequencies.js";
import { ROPE, ropeFrequencies, type RopeConfig } from "./resolve.js";
import { turnPairs, type Rotation } from "./rotate.js";

const APPLY = schema("rope", {
  ...POSITIONS,
  seqLen: integer(
    "Length of the whole sequence, cache included: what dynamicNtk and longrope look at. Keys that were turned for " +
      "another length are stale where `changes` says so.",
    { min: 1, defaultDoc: "largest position + 1" },
  ),
  maxPositions: integer("With `positionIds`: rows of the tables, which can stay as the sequence grows.", {
    min: 1,
    defaultDoc: "seqLen",
  }),
  layout: oneOf(
    'Order of the axes of queries and keys: "bhsd" is [batch, heads, seq, headDim].',
    ["bhsd", "bshd"],
    { default: "bhsd" },
  ),
});
export type RopeApplyOptions = Config<typeof APPLY>;

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
export class RotaryEmbedding extends Component<typeof ROPE> {
  static readonly schema = ROPE;
  #table:
    { readonly cos: Tensor; readonly sin: Tensor; readonly rows: number; readonly key: string } | undefined;

  /** There are no parameters. @throws ConfigError */
  static plan(config: RopeConfig): ParameterPlan {
    ropeFrequencies(config);
    return {};
  }

  /** @throws ConfigError */
  constructor(config: RopeConfig, parameters: Parameters = {}) {
    super(ROPE, config, RotaryEmbedding.plan(config), parameters);
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
  #rows(gpu: Gpu, rows: number, seqLen: number): { cos: Tensor; sin: Tensor } {
    const frequencies = this.frequencies(seqLen);
    const key = frequencies.invFreq.join() + String(frequencies.attentionFactor);
    const held = this.#table;
    if (held && held.key === key && held.rows >= rows && held.cos.gpu === gpu && !held.cos.disposed)
      return held;
    const outgrown = held && held.rows < rows ? Math.min(2 * held.rows, 2 * rows) : 0;
    const size = Math.max(rows, 64, outgrown);
    const tables = rotaryTables(
      gpu,
      Int32Array.from({ length: size }, (_, i) => i),
      frequencies,
    );
    this.#free();
    this.#table = { cos: gpu.keep(tables.cos), sin: gpu.keep(tables.sin), rows: size, key };
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
    const who = APPLY.name;
    for (const t of tensors) expectDType(who, tensors.length === 1 ? "x" : "q and k", t, "f32", "f16");
    const { seqLen, maxPositions, layout, ...given } = APPLY.read(options);
    const [x] = tensors as [Tensor];
    const { gpu } = x;
    const batch = x.shape[0] ?? 0;
    const seq = x.shape[layout === "bhsd" ? 2 : 1] ?? 0;
    const { headDim, layout: pairs } = this.config;
    const interleaved = pairs === "interleaved";
    if (x.shape.at(-1) !== headDim)
      throw new ConfigError(who, `x has ${x.shape.at(-1) ?? 0} features a head; headDim is ${headDim}`);
    checkPositions(who, given, batch, seq);
    const { positions, positionIds, positionOffset = 0 } = given;
    if (maxPositions !== undefined && !positionIds)
      throw new ConfigError(who, "maxPositions is given without positionIds, whose tables it sizes");
    if (positions) {
      const { list, perBatch } = hostPositions(given, seq);
      let largest = 0;
      for (let i = 0; i < list.length; i++) {
        expectInteger(who, "positions", list[i]);
        largest = Math.max(largest, list[i]!);
      }
      return gpu.scope(() => {
        const tables = rotaryTables(gpu, list, this.frequencies(seqLen ?? largest + 1));
        const ids = rowNumbers(gpu, batch, seq, perBatch);
        return turnPairs(who, tensors, { ...tables, interleaved, positions: ids }, layout);
      });
    }
    let rotation: Rotation;
    if (positionIds) {
      expectInteger(who, "seqLen (with positionIds)", seqLen, 1);
      const rows = maxPositions ?? seqLen;
      rotation = { ...this.#rows(gpu, rows, seqLen), interleaved, positions: positionIds };
    } else {
      const end = positionOffset + seq;
      rotation = { ...this.#rows(gpu, end, seqLen ?? end), interleaved, offset: positionOffset };
    }
    return turnPairs(who, tensors, rotation, layout);
  }

  #free(): void {
    this.#table?.cos.dispose();
    this.#table?.sin.dispose();
    this.#table = undefined;
  }

  /** Frees the tables. */
  override dispose(): void {
    this.#free();
    super.dispose();
  }
}
