import {
  ConfigError,
  integer,
  number,
  schema,
  ShapeError,
  value,
  type Config,
  type Resolved,
} from "@x/kernels";
import { SPLINE, splineKnots } from "./bases/bspline.js";
import { leastSquares } from "./least_squares.js";

/** Fields of how the knots are moved. */
export const GRID_UPDATE = {
  gridEps: number("Share of the uniform knots against those at quantiles of the data.", {
    min: 0,
    max: 1,
    default: 0.02,
  }),
  margin: number("By how much the uniform knots go beyond the data.", { min: 0, default: 0.01 }),
};
const OPTIONS = schema("kanGridUpdate", { ...SPLINE, ...GRID_UPDATE });

const isList = (given: unknown): given is ArrayLike<number> =>
  Array.isArray(given) || (ArrayBuffer.isView(given) && !(given instanceof DataView));
const LIST = "a list or a typed array of numbers";
const DATA = schema("kanGridUpdate", {
  x: value("Samples [N, in], row-major.", LIST, isList),
  features: integer("Width of x.", { min: 1 }),
  splineWeight: value("[out, in, G + k]", LIST, isList),
  grid: value("Knots so far, [in, G + 2k + 1].", LIST, isList, { defaultDoc: "uniform" }),
});
export type KanGridUpdateOptions = Config<typeof OPTIONS>;
export type KanGridData = Config<typeof DATA>;

export interface KanGrid {
  /** [I, G + 2k + 1] */
  readonly grid: Float64Array;
  /** [O, I, G + k] */
  readonly splineWeight: Float64Array;
}

/** The bases of order `order` at x, by the recurrence, into out. */
export function bases(x: number, knots: ArrayLike<number>, order: number, out: Float64Array): void {
  const last = knots.length - 1;
  const values = new Float64Array(last);
  for (let j = 0; j < last; j++) values[j] = knots[j]! <= x && x < knots[j + 1]! ? 1 : 0;
  const share = (a: number, width: number): number => (width === 0 ? 0 : a / width);
  for (let r = 1; r <= order; r++)
    for (let j = 0; j < last - r; j++) {
      const left = share(x - knots[j]!, knots[j + r]! - knots[j]!) * values[j]!;
      const right = share(knots[j + r + 1]! - x, knots[j + r + 1]! - knots[j + 1]!) * values[j + 1]!;
      values[j] = left + right;
    }
  out.set(values.subarray(0, out.length));
}

/** Differences below this share of the values are lost in float32, which holds the knots. */
const RESOLUTION = 2 ** -22;

/** New knots for one feature from its sorted samples. */
function knotsOf(
  sorted: Float64Array,
  { gridSize: G, splineOrder: k, gridEps, margin }: Resolved<typeof OPTIONS>,
): Float64Array {
  const N = sorted.length;
  const [low, high] = [sorted[0]!, sorted[N - 1]!];
  const uniform = (beyond: number, share: number): { step: number; inner: number[] } => {
    const step = (high - low + 2 * beyond) / G;
    const inner = Array.from({ length: G + 1 }, (_, j) => {
      const adaptive = sorted[Math.floor((j * (N - 1)) / G)]!;
      return share * (low - beyond + j * step) + (1 - share) * adaptive;
    });
    return { step, inner };
  };
  const size = Math.max(Math.abs(low), Math.abs(high));
  let { step, inner } = uniform(margin, gridEps);
  // Knots that coincide have no functions between them, so that a constant feature would lose its splines.
  if (!(inner[G]! - inner[0]! > G * RESOLUTION * size))
    ({ step, inner } = uniform(Math.max(margin, 0.01 * Math.max(size, 1)), 1));
  return Float64Array.from({ length: G + 2 * k + 1 }, (_, j) => {
    if (j < k) return inner[0]! - (k - j) * step;
    return j > G + k ? inner[G]! + (j - G - k) * step : inner[j - k]!;
  });
}

/** Checks the extents and the values of the data. Returns the number of samples and of outputs. */
function checkData(
  { x, features, splineWeight, grid }: KanGridData,
  { gridSize, splineOrder }: Resolved<typeof OPTIONS>,
): { samples: number; outputs: number } {
  const who = OPTIONS.name;
  const [n, knots] = [gridSize + splineOrder, gridSize + 2 * splineOrder + 1];
  const samples = x.length / features;
  if (!Number.isInteger(samples) || samples < n)
    throw new ShapeError(
      who,
      `x has ${samples} samples of ${features} features; it must have at least G + k = ${n}`,
    );
  const outputs = splineWeight.length / (features * n);
  if (!Number.isInteger(outputs))
    throw new ShapeError(
      who,
      `splineWeight has ${splineWeight.length} numbers; it must be [O, ${features}, ${n}]`,
    );
  if (grid && grid.length !== features * knots)
    throw new ShapeError(who, `grid has ${grid.length} numbers; it must be [${features}, ${knots}]`);
  for (const [name, values] of Object.entries({ x, splineWeight, grid }))
    for (let i = 0; i < (values?.length ?? 0); i++)
      if (!Number.isFinite(values![i]))
        throw new ConfigError(who, `${name}[${i}] is ${values![i]}; it must be a finite number`);
  return { samples, outputs };
}

/**
 * Knots that follow the data, with the spline functions kept: per feature, quantiles of the samples mixed with
 * uniform knots (`gridEps`), k knots more on both sides; the weights are refitted over the samples by least squares.
 * A scaler of the layer is left alone: the unscaled splines are fitted, which keeps the functions.
 *
 * A constant feature whose knots would coincide gets uniform ones, within 1 % of its value (at least 0.01) on either
 * side.
 *
 * On the host, in double precision; not differentiable. N >= G + k, all values finite. Liu et al. 2024,
 * arXiv:2404.19756, section 2.4.
 *
 * @throws ShapeError, ConfigError
 */
export function kanGridUpdate(data: KanGridData, options: KanGridUpdateOptions = {}): KanGrid {
  const given = DATA.read(data);
  const settings = OPTIONS.read(options);
  const { samples: N, outputs: O } = checkData(given, settings);
  const { gridSize: G, splineOrder: k } = settings;
  const { x, features: I, splineWeight, grid: old } = given;
  const [n, knots] = [G + k, G + 2 * k + 1];
  const uniform = splineKnots(settings);
  const grid = new Float64Array(I * knots);
  const weight = new Float64Array(O * I * n);
  for (let i = 0; i < I; i++) {
    const samples = Float64Array.from({ length: N }, (_, t) => x[t * I + i]!);
    const before = old ? Float64Array.from({ length: knots }, (_, j) => old[i * knots + j]!) : uniform;
    const after = knotsOf(samples.slice().sort(), settings);
    grid.set(after, i * knots);
    const [a, b] = [new Float64Array(N * n), new Float64Array(N * n)];
    for (let t = 0; t < N; t++) {
      bases(samples[t]!, after, k, a.subarray(t * n, (t + 1) * n));
      bases(samples[t]!, before, k, b.subarray(t * n, (t + 1) * n));
    }
    // The fit is linear in the old weights: old bases in terms of new ones, then every edge is a product.
    const change = leastSquares(a, b, N, n, n);
    for (let o = 0; o < O; o++)
      for (let j = 0; j < n; j++) {
        let s = 0;
        for (let l = 0; l < n; l++) s += change[j * n + l]! * splineWeight[(o * I + i) * n + l]!;
        weight[(o * I + i) * n + j] = s;
      }
  }
  return { grid, splineWeight: weight };
}
