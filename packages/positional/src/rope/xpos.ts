import {
  Component,
  ConfigError,
  expectDType,
  expectInteger,
  expectNumber,
  expectOneOf,
  integer,
  number,
  oneOf,
  schema,
  type Config,
  type Gpu,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkPositions, expectNoBound, hostPositions, POSITIONS } from "../positions.js";
import { inverseFrequencies } from "./frequencies.js";
import { rotaryTables, rowNumbers } from "./rope.js";
import { turnPairs } from "./rotate.js";

const XPOS = schema("Xpos", {
  headDim: integer("Width of a head.", { min: 2 }),
  rotaryDim: integer("Features that turn, the first ones; even.", { min: 2, defaultDoc: "headDim" }),
  base: number("Base of the frequencies.", { min: Number.MIN_VALUE, default: 10000 }),
  layout: oneOf('Pairs (2 i, 2 i + 1), or "half": (i, i + n).', ["half", "interleaved"], {
    default: "interleaved",
  }),
  scaleBase: number("Distance over which a score decays by zeta.", { min: Number.MIN_VALUE, default: 512 }),
  gamma: number("Share that the slowest decay keeps.", { min: Number.MIN_VALUE, default: 0.4 }),
});
const APPLY = schema("Xpos.apply", {
  ...POSITIONS,
  center: number("Subtracted from positions in the exponent; one value for q and k.", {
    defaultDoc: "ceil((largest position + 1) / 2)",
  }),
  seqLen: integer("With `positionIds`: a bound that they are all below.", { min: 1, optional: true }),
  layout: oneOf('Order of the axes of x: [batch, heads, seq, headDim] or "bshd".', ["bhsd", "bshd"], {
    default: "bhsd",
  }),
});
export type XposConfig = Config<typeof XPOS>;
export type XposApplyOptions = Config<typeof APPLY>;

/**
 * xPos: RoPE whose pairs grow for queries and shrink for keys with the position, q' = zeta^e rot(q),
 * k' = zeta^-e rot(k), e = (position - center) / scaleBase, zeta_i = (2 i + gamma d) / ((1 + gamma) d), so that
 * scores decay with the distance; for causal models.
 *
 * Sun et al. 2022, arXiv:2212.10554.
 */
export class Xpos extends Component<typeof XPOS> {
  static readonly schema = XPOS;
  /** Radians per position of each pair. */
  readonly invFreq: Float64Array;
  /** Base of each pair's decay. */
  readonly zeta: Float64Array;
  /** Tables of positions 0, 1, .. for each role and center. */
  readonly #tables: Map<string, { readonly cos: Tensor; readonly sin: Tensor }> = new Map<
    string,
    { readonly cos: Tensor; readonly sin: Tensor }
  >();

  /** There are no parameters. @throws ConfigError */
  static plan(config: XposConfig): ParameterPlan {
    const { headDim, rotaryDim: d = headDim } = XPOS.read(config);
    if (d % 2 !== 0 || d > headDim)
      throw new ConfigError(XPOS.name, `rotaryDim is ${d}; it must be even and at most headDim (${headDim})`);
    return {};
  }

  /** @throws ConfigError */
  constructor(config: XposConfig, parameters: Parameters = {}) {
    super(XPOS, config, Xpos.plan(config), parameters);
    const { headDim, rotaryDim: d = headDim, base, gamma } = this.config;
    this.invFreq = inverseFrequencies({ d, base });
    this.zeta = Float64Array.from({ length: d / 2 }, (_, i) => (2 * i + gamma * d) / ((1 + gamma) * d));
  }

  /** zeta_i^((position - center) / scaleBase) for each position and pair. @throws ConfigError */
  scales(positions: ArrayLike<number>, center: number): Float64Array {
    POSITIONS.positions.check("Xpos.scales", "positions", positions);
    expectNumber("Xpos.scales", "center", center);
    const n = this.zeta.length;
    return Float64Array.from(
      { length: positions.length * n },
      (_, at) => this.zeta[at % n]! ** ((positions[Math.floor(at / n)]! - center) / this.config.scaleBase),
    );
  }

  /**
   * Rotates and scales queries or keys. x [batch, heads, seq, headDim], f32 or f16.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  apply(x: Tensor, role: "query" | "key", options: XposApplyOptions = {}): Tensor {
    const who = APPLY.name;
    expectDType(who, "x", x, "f32", "f16");
    expectOneOf(who, "role", role, ["query", "key"]);
    const { center, seqLen, layout, ...given } = APPLY.read(options);
    const { headDim, layout: pairs } = this.config;
    const interleaved = pairs === "interleaved";
    if (x.shape.at(-1) !== headDim)
      throw new ConfigError(who, `x has ${x.shape.at(-1) ?? 0} features a head; headDim is ${headDim}`);
    const batch = x.shape[0] ?? 0;
    const seq = x.shape[layout === "bhsd" ? 2 : 1] ?? 0;
    checkPositions(who, given, batch, seq);
    const { positionIds } = given;
    if (positionIds) {
      expectNumber(who, "center (with positionIds)", center);
      expectInteger(who, "seqLen (with positionIds)", seqLen, 1);
      const tables = this.#rows(x.gpu, seqLen, role, center);
      return turnPairs(who, [x], { ...tables, interleaved, positions: positionIds }, layout)[0]!;
    }
    expectNoBound(who, seqLen);
    const { list, perBatch } = hostPositions(given, seq);
    let largest = 0;
    for (let i = 0; i < list.length; i++) {
      expectInteger(who, "positions", list[i]);
      largest = Math.max(largest, list[i]!);
    }
    return x.gpu.scope(() => {
      const tables = this.#make(x.gpu, list, role, center ?? Math.ceil((largest + 1) / 2));
      const positions = rowNumbers(x.gpu, batch, seq, perBatch);
      return turnPairs(who, [x], { ...tables, interleaved, positions }, layout)[0]!;
    });
  }

  #make(
    gpu: Gpu,
    rows: ArrayLike<number>,
    role: "query" | "key",
    center: number,
  ): { cos: Tensor; sin: Tensor } {
    const sign = role === "query" ? 1 : -1;
    return rotaryTables(
      gpu,
      rows,
      { invFreq: this.invFreq, attentionFactor: 1 },
      (position, i) => this.zeta[i]! ** ((sign * (position - center)) / this.config.scaleBase),
    );
  }

  #rows(gpu: Gpu, rows: number, role: "query" | "key", center: number): { cos: Tensor; sin: Tensor } {
    const key = `${role} ${center}`;
    const held = this.#tables.get(key);
    if (held && held.cos.gpu === gpu && !held.cos.disposed && held.cos.shape[0]! >= rows) return held;
    const size = Math.max(64, rows, held ? 2 * held.cos.shape[0]! : 0);
    const made = this.#make(
      gpu,
      Int32Array.from({ length: size }, (_, i) => i),
      role,
      center,
    );
    held?.cos.dispose();
    held?.sin.dispose();
    const tables = { cos: gpu.keep(made.cos), sin: gpu.keep(made.sin) };
    this.#tables.set(key, tables);
    return tables;
  }

  /** Frees the tables. */
  override dispose(): void {
    for (const { cos, sin } of this.#tables.values()) {
      cos.dispose();
      sin.dispose();
    }
    this.#tables.clear();
    super.dispose();
  }
}
