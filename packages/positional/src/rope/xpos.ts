import {
  checkConfig,
  ConfigError,
  expectInteger,
  expectNumber,
  expectOneOf,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { plainFrequencies } from "./frequencies.js";
import { resolveRope } from "./resolve.js";
import { checkPositions, rotaryTables, rowNumbers } from "./rope.js";
import { turnPairs, type HeadLayout } from "./rotate.js";

export interface XposConfig {
  readonly headDim: number;
  readonly rotaryDim?: number;
  readonly base?: number;
  /** Default "interleaved". */
  readonly layout?: "half" | "interleaved";
  /** Default 512. */
  readonly scaleBase?: number;
  /** Default 0.4. */
  readonly gamma?: number;
}

export interface XposApplyOptions {
  readonly positionOffset?: number;
  readonly positions?: ArrayLike<number> | undefined;
  /** Subtracted from positions in the exponent; default ceil((largest position + 1) / 2). One value for q and k. */
  readonly center?: number;
  /** i32 [batch, seq] on the GPU, all below `seqLen`; needs `center`. */
  readonly positionIds?: Tensor | undefined;
  readonly seqLen?: number;
  readonly layout?: HeadLayout;
}

/**
 * xPos: RoPE whose pairs grow for queries and shrink for keys with the position, q' = zeta^e rot(q),
 * k' = zeta^-e rot(k), e = (position - center) / scaleBase, zeta_i = (2 i + gamma d) / ((1 + gamma) d), so that
 * scores decay with the distance; for causal models.
 *
 * Sun et al. 2022, arXiv:2212.10554.
 */
export class Xpos {
  readonly #gpu: Gpu;
  readonly #rope: ReturnType<typeof resolveRope>;
  readonly invFreq: Float64Array;
  readonly zeta: Float64Array;
  readonly scaleBase: number;
  /** Tables of positions 0, 1, .. for each role and center. */
  readonly #tables: Map<string, { readonly cos: Tensor; readonly sin: Tensor }> = new Map<
    string,
    { readonly cos: Tensor; readonly sin: Tensor }
  >();

  constructor(gpu: Gpu, config: XposConfig) {
    const who = "Xpos";
    checkConfig(who, config, ["headDim", "rotaryDim", "base", "layout", "scaleBase", "gamma"]);
    const { scaleBase = 512, gamma = 0.4, layout = "interleaved", ...rest } = config;
    expectNumber(who, "scaleBase", scaleBase, Number.MIN_VALUE);
    expectNumber(who, "gamma", gamma, Number.MIN_VALUE);
    this.#gpu = gpu;
    this.#rope = resolveRope(who, { ...rest, layout });
    const { rotaryDim: d, base } = this.#rope;
    this.invFreq = plainFrequencies({ d, base });
    this.zeta = Float64Array.from({ length: d / 2 }, (_, i) => (2 * i + gamma * d) / ((1 + gamma) * d));
    this.scaleBase = scaleBase;
  }

  /** zeta_i^((position - center) / scaleBase) for each position and pair. */
  scales(positions: ArrayLike<number>, center: number): Float64Array {
    const n = this.zeta.length;
    return Float64Array.from(
      { length: positions.length * n },
      (_, at) => this.zeta[at % n]! ** ((positions[Math.floor(at / n)]! - center) / this.scaleBase),
    );
  }

  /** Rotate and scale queries or keys. */
  apply(x: Tensor, role: "query" | "key", options: XposApplyOptions = {}): Tensor {
    const who = "xpos";
    checkConfig(who, options, ["positionOffset", "positions", "positionIds", "seqLen", "center", "layout"]);
    const { positionOffset = 0, layout = "bhsd" } = options;
    expectInteger(who, "positionOffset", positionOffset, 0);
    expectOneOf(who, "role", role, ["query", "key"]);
    expectOneOf(who, "layout", layout, ["bhsd", "bshd"]);
    if (options.center !== undefined) expectNumber(who, "center", options.center);
    if (x.shape.at(-1) !== this.#rope.headDim)
      throw new ConfigError(
        who,
        `x has ${x.shape.at(-1) ?? 0} features a head; headDim is ${this.#rope.headDim}`,
      );
    const { positionIds } = options;
    if (positionIds) {
      const { center, seqLen } = options;
      expectNumber(who, "center (with positionIds)", center);
      expectInteger(who, "seqLen (with positionIds)", seqLen, 1);
      const tables = this.#rows(seqLen, role, center);
      const interleaved = this.#rope.layout === "interleaved";
      return turnPairs(who, [x], { ...tables, interleaved, positions: positionIds }, layout)[0]!;
    }
    const batch = x.shape[0] ?? 0;
    const seq = x.shape[layout === "bhsd" ? 2 : 1] ?? 0;
    const given = options.positions ?? Int32Array.from({ length: seq }, (_, i) => positionOffset + i);
    const { rows, perBatch, largest } = checkPositions(who, given, batch, seq);
    const center = options.center ?? Math.ceil((largest + 1) / 2);
    return this.#gpu.scope(() => {
      const tables = this.#make(rows, role, center);
      const positions = rowNumbers(this.#gpu, batch, seq, perBatch);
      const interleaved = this.#rope.layout === "interleaved";
      return turnPairs(who, [x], { ...tables, interleaved, positions }, layout)[0]!;
    });
  }

  #make(rows: ArrayLike<number>, role: "query" | "key", center: number): { cos: Tensor; sin: Tensor } {
    const sign = role === "query" ? 1 : -1;
    return rotaryTables(
      this.#gpu,
      rows,
      { invFreq: this.invFreq, attentionFactor: 1 },
      (position, i) => this.zeta[i]! ** ((sign * (position - center)) / this.scaleBase),
    );
  }

  #rows(rows: number, role: "query" | "key", center: number): { cos: Tensor; sin: Tensor } {
    const key = `${role} ${center}`;
    const held = this.#tables.get(key);
    if (held && !held.cos.disposed && held.cos.shape[0]! >= rows) return held;
    const size = Math.max(64, rows, held ? 2 * held.cos.shape[0]! : 0);
    const made = this.#make(
      Int32Array.from({ length: size }, (_, i) => i),
      role,
      center,
    );
    held?.cos.dispose();
    held?.sin.dispose();
    const tables = { cos: this.#gpu.keep(made.cos), sin: this.#gpu.keep(made.sin) };
    this.#tables.set(key, tables);
    return tables;
  }

  /** Free the tables. */
  dispose(): void {
    for (const { cos, sin } of this.#tables.values()) {
      cos.dispose();
      sin.dispose();
    }
    this.#tables.clear();
  }
}
