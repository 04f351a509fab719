import {
  add,
  cast,
  Component,
  embedding,
  expectDType,
  expectInteger,
  integer,
  mul,
  number,
  oneOf,
  schema,
  ShapeError,
  showShape,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkPositions, expectNoBound, hostPositions, POSITIONS } from "../positions.js";

const TABLE = {
  base: number("Base of the frequencies.", { min: Number.MIN_VALUE, default: 10000 }),
  layout: oneOf(
    'Order of a row: sine and cosine in turn (the paper), or "concat": sines, then cosines.',
    ["interleaved", "concat"],
    { default: "interleaved" },
  ),
  denominator: oneOf(
    'Frequencies base^(-2 i / dim), or "halfMinusOne": base^(-i / max(n - 1, 1)) for n of them, as in tensor2tensor.',
    ["dim", "halfMinusOne"],
    { default: "dim" },
  ),
};
const dim = integer("Width of x.", { min: 1 });
const inputScale = number("Factor of x.", { default: 1 });
const TABLE_CONFIG = schema("sinusoidalTable", { dim, ...TABLE });
const OPTIONS = schema("sinusoidal", {
  ...TABLE,
  inputScale,
  positionOffset: POSITIONS.positionOffset,
  positions: POSITIONS.positions,
});
const FORWARD = schema("SinusoidalEmbedding.forward", {
  ...POSITIONS,
  seqLen: integer("With `positionIds`: a bound that they are all below.", { min: 1, optional: true }),
});
const SINUSOIDAL = schema("SinusoidalEmbedding", { dim, ...TABLE, inputScale });
export type SinusoidalTableConfig = Config<typeof TABLE_CONFIG>;
export type SinusoidalOptions = Config<typeof OPTIONS>;
export type SinusoidalForwardOptions = Config<typeof FORWARD>;
export type SinusoidalConfig = Config<typeof SINUSOIDAL>;

/**
 * Rows of sines and cosines for positions (any real numbers), in double precision: [positions, dim] row by row.
 *
 * @throws ConfigError
 */
export function sinusoidalTable(positions: ArrayLike<number>, config: SinusoidalTableConfig): Float64Array {
  POSITIONS.positions.check(TABLE_CONFIG.name, "positions", positions);
  const { dim, base, layout, denominator } = TABLE_CONFIG.read(config);
  const n = layout === "interleaved" ? Math.ceil(dim / 2) : Math.floor(dim / 2);
  const frequency = (i: number): number =>
    base ** (denominator === "dim" ? (-2 * i) / dim : -i / Math.max(n - 1, 1));
  const out = new Float64Array(positions.length * dim);
  for (let p = 0; p < positions.length; p++)
    for (let i = 0; i < n; i++) {
      const angle = positions[p]! * frequency(i);
      const [sine, cosine] = layout === "interleaved" ? [2 * i, 2 * i + 1] : [i, n + i];
      out[p * dim + sine] = Math.sin(angle);
      if (cosine < dim) out[p * dim + cosine] = Math.cos(angle);
    }
  return out;
}

/** inputScale x + rows, summed in float32 and stored as x is. */
function addRows(x: Tensor, inputScale: number, rows: Tensor): Tensor {
  const out = add(inputScale === 1 ? x : mul(x, inputScale), rows);
  return x.dtype === "f16" ? cast(out, "f16") : out;
}

/** @throws ShapeError, DTypeError */
function expectTokens(who: string, x: Tensor): void {
  expectDType(who, "x", x, "f32", "f16");
  if (x.rank !== 3)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, seq, dim]`);
}

/**
 * Fixed positions of sines and cosines: out = inputScale x + table[position].
 *
 * x and the result [batch, seq, dim], f32 or f16. Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function sinusoidal(x: Tensor, options: SinusoidalOptions = {}): Tensor {
  const who = OPTIONS.name;
  expectTokens(who, x);
  const { inputScale, positionOffset, positions, ...table } = OPTIONS.read(options);
  const [batch, seq, dim] = x.shape as [number, number, number];
  const given = { positionOffset, positions };
  checkPositions(who, given, batch, seq);
  const { list, perBatch } = hostPositions(given, seq);
  return x.gpu.scope(() => {
    const rows = sinusoidalTable(list, { dim, ...table });
    return addRows(x, inputScale, x.gpu.tensor(rows, perBatch ? [batch, seq, dim] : [seq, dim]));
  });
}

/** `sinusoidal` with its table on the device, which grows as positions do; it has no parameters. */
export class SinusoidalEmbedding extends Component<typeof SINUSOIDAL> {
  static readonly schema = SINUSOIDAL;
  #table: Tensor | undefined;

  /** There are no parameters. @throws ConfigError */
  static plan(config: SinusoidalConfig): ParameterPlan {
    SINUSOIDAL.read(config);
    return {};
  }

  /** @throws ConfigError */
  constructor(config: SinusoidalConfig, parameters: Parameters = {}) {
    super(SINUSOIDAL, config, SinusoidalEmbedding.plan(config), parameters);
  }

  /** x [batch, seq, dim], f32 or f16; returns the same shape and dtype. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: SinusoidalForwardOptions = {}): Tensor {
    const who = FORWARD.name;
    expectTokens(who, x);
    const { positionIds, seqLen, ...positions } = FORWARD.read(options);
    const { dim, inputScale, ...table } = this.config;
    const [batch, seq, width] = x.shape as [number, number, number];
    if (width !== dim) throw new ShapeError(who, `x has ${width} features; dim is ${dim}`);
    checkPositions(who, { ...positions, positionIds }, batch, seq);
    if (!positionIds) {
      expectNoBound(who, seqLen);
      return sinusoidal(x, { ...table, inputScale, ...positions });
    }
    expectInteger(who, "seqLen (with positionIds)", seqLen, 1);
    return x.gpu.scope(() => addRows(x, inputScale, embedding(this.#rows(x, seqLen), positionIds)));
  }

  #rows({ gpu }: Tensor, rows: number): Tensor {
    const held = this.#table;
    if (held && held.gpu === gpu && !held.disposed && held.shape[0]! >= rows) return held;
    const size = Math.max(64, rows, held ? 2 * held.shape[0]! : 0);
    const { dim, base, layout, denominator } = this.config;
    const table = sinusoidalTable(
      Int32Array.from({ length: size }, (_, i) => i),
      { dim, base, layout, denominator },
    );
    held?.dispose();
    return (this.#table = gpu.keep(gpu.tensor(table, [size, dim])));
  }

  /** Frees the table. */
  override dispose(): void {
    this.#table?.dispose();
    this.#table = undefined;
    super.dispose();
  }
}
