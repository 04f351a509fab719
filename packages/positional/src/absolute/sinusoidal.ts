import {
  add,
  cast,
  checkConfig,
  embedding,
  expectDType,
  expectInteger,
  expectNumber,
  expectObject,
  expectOneOf,
  mul,
  ShapeError,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import {
  checkDevicePositions,
  positionsOf,
  type AbsoluteOptions,
  type DevicePositions,
} from "./learned_absolute.js";

export interface SinusoidalConfig {
  readonly dim: number;
  /** Default 10000. */
  readonly base?: number;
  /** "interleaved": sine and cosine in turn (the paper); "concat": sines, then cosines. Default "interleaved". */
  readonly layout?: "interleaved" | "concat";
  /** Frequencies base^(-2 i / dim), or base^(-i / max(n - 1, 1)) as in tensor2tensor. Default "dim". */
  readonly denominator?: "dim" | "halfMinusOne";
}

/** Rows of sines and cosines for positions (any real numbers), in double precision: [positions, dim] row by row. */
export function sinusoidalTable(positions: ArrayLike<number>, config: SinusoidalConfig): Float64Array {
  const who = "sinusoidal";
  checkConfig(who, config, ["dim", "base", "layout", "denominator"]);
  const { dim, base = 10000, layout = "interleaved", denominator = "dim" } = config;
  expectInteger(who, "dim", dim, 1);
  expectNumber(who, "base", base, Number.MIN_VALUE);
  expectOneOf(who, "layout", layout, ["interleaved", "concat"]);
  expectOneOf(who, "denominator", denominator, ["dim", "halfMinusOne"]);
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

/**
 * Fixed positions of sines and cosines: out = inputScale x + table[position].
 *
 * x and the result [batch, seq, dim], f32 or f16. Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function sinusoidal(
  x: Tensor,
  config: SinusoidalConfig,
  options: AbsoluteOptions & { readonly inputScale?: number } = {},
): Tensor {
  const { inputScale = 1, ...rest } = options;
  expectDType("sinusoidal", "x", x, "f32", "f16");
  expectNumber("sinusoidal", "inputScale", inputScale);
  const { list, perBatch } = positionsOf("sinusoidal", x, rest);
  const [batch, seq, dim] = x.shape as [number, number, number];
  if (config.dim !== dim) throw new ShapeError("sinusoidal", `x has ${dim} features; dim is ${config.dim}`);
  return x.gpu.scope(() => {
    const table = x.gpu.tensor(sinusoidalTable(list, config), perBatch ? [batch, seq, dim] : [seq, dim]);
    return addRows(x, inputScale, table);
  });
}

/** `sinusoidal` with its table on the device, which grows as positions do. */
export class SinusoidalEmbedding {
  readonly config: SinusoidalConfig;
  readonly inputScale: number;
  readonly #gpu: Gpu;
  #table: Tensor | undefined;

  constructor(gpu: Gpu, config: SinusoidalConfig & { readonly inputScale?: number }) {
    expectObject("SinusoidalEmbedding", "config", config);
    const { inputScale = 1, ...own } = config;
    expectNumber("SinusoidalEmbedding", "inputScale", inputScale);
    sinusoidalTable([], own);
    this.#gpu = gpu;
    this.config = own;
    this.inputScale = inputScale;
  }

  /** Positions positionOffset, positionOffset + 1, .., or those on the GPU. */
  forward(x: Tensor, options: { readonly positionOffset?: number } | DevicePositions = {}): Tensor {
    const who = "SinusoidalEmbedding";
    if (!("positionIds" in options))
      return sinusoidal(x, this.config, { ...options, inputScale: this.inputScale });
    checkConfig(who, options, ["positionIds", "seqLen"]);
    expectDType(who, "x", x, "f32", "f16");
    checkDevicePositions(who, x, options);
    if (x.shape[2] !== this.config.dim)
      throw new ShapeError(who, `x has ${x.shape[2] ?? 0} features; dim is ${this.config.dim}`);
    return this.#gpu.scope(() =>
      addRows(x, this.inputScale, embedding(this.#rows(options.seqLen), options.positionIds)),
    );
  }

  #rows(rows: number): Tensor {
    const held = this.#table;
    if (held && !held.disposed && held.shape[0]! >= rows) return held;
    const size = Math.max(64, rows, held ? 2 * held.shape[0]! : 0);
    const table = sinusoidalTable(
      Int32Array.from({ length: size }, (_, i) => i),
      this.config,
    );
    this.dispose();
    return (this.#table = this.#gpu.keep(this.#gpu.tensor(table, [size, this.config.dim])));
  }

  /** Free the table. */
  dispose(): void {
    this.#table?.dispose();
    this.#table = undefined;
  }
}
