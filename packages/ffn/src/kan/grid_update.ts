import { checkConfig, expectInteger, expectNumber, ShapeError } from "@x/kernels";
import { SPLINE_KEYS, splineKnots, splineOf, type SplineOptions } from "./bases/bspline.js";
import { leastSquares } from "./least_squares.js";

export interface KanGridUpdateOptions extends SplineOptions {
  /** Share of the uniform knots against those at quantiles of the data; default 0.02. */
  readonly gridEps?: number;
  /** By how much the uniform knots go beyond the data; default 0.01. */
  readonly margin?: number;
}

export interface KanGridData {
  /** Samples [N, I], row-major. */
  readonly x: ArrayLike<number>;
  readonly features: number;
  /** [O, I, G + k] */
  readonly splineWeight: ArrayLike<number>;
  /** Knots so far [I, G + 2k + 1]; without them the uniform ones. */
  readonly grid?: ArrayLike<number> | undefined;
}

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

/** New knots for one feature from its sorted samples. */
function knotsOf(sorted: Float64Array, G: number, k: number, gridEps: number, margin: number): Float64Array {
  const N = sorted.length;
  const [low, high] = [sorted[0]!, sorted[N - 1]!];
  const step = (high - low + 2 * margin) / G;
  const inner = Array.from({ length: G + 1 }, (_, j) => {
    const adaptive = sorted[Math.floor((j * (N - 1)) / G)]!;
    return gridEps * (low - margin + j * step) + (1 - gridEps) * adaptive;
  });
  return Float64Array.from({ length: G + 2 * k + 1 }, (_, j) => {
    if (j < k) return inner[0]! - (k - j) * step;
    return j > G + k ? inner[G]! + (j - G - k) * step : inner[j - k]!;
  });
}

/**
 * Knots that follow the data, with the spline functions kept: per feature, quantiles of the samples mixed with
 * uniform knots (`gridEps`), k knots more on both sides; the weights are refitted over the samples by least squares.
 * A scaler of the layer is left alone: the unscaled splines are fitted, which keeps the functions.
 *
 * On the host, in double precision; not differentiable. N >= G + k. Liu et al. 2024, arXiv:2404.19756, section 2.4.
 *
 * @throws ShapeError, ConfigError
 */
export function kanGridUpdate(data: KanGridData, options: KanGridUpdateOptions = {}): KanGrid {
  const who = "kanGridUpdate";
  checkConfig(who, options, [...SPLINE_KEYS, "gridEps", "margin"]);
  const { gridEps = 0.02, margin = 0.01, ...rest } = options;
  expectNumber(who, "gridEps", gridEps, 0, 1);
  expectNumber(who, "margin", margin, 0);
  const spline = splineOf(who, rest);
  const { gridSize: G, splineOrder: k } = spline;
  const { x, features: I, splineWeight } = data;
  expectInteger(who, "features", I, 1);
  const [n, knots] = [G + k, G + 2 * k + 1];
  const N = x.length / I;
  if (!Number.isInteger(N) || N < n)
    throw new ShapeError(
      who,
      `x has ${String(N)} samples of ${String(I)} features; it must have at least G + k = ${String(n)}`,
    );
  const O = splineWeight.length / (I * n);
  if (!Number.isInteger(O))
    throw new ShapeError(
      who,
      `splineWeight has ${String(splineWeight.length)} numbers; it must be [O, ${String(I)}, ${String(n)}]`,
    );
  if (data.grid && data.grid.length !== I * knots)
    throw new ShapeError(
      who,
      `grid has ${String(data.grid.length)} numbers; it must be [${String(I)}, ${String(knots)}]`,
    );
  const uniform = splineKnots(spline);
  const grid = new Float64Array(I * knots);
  const weight = new Float64Array(O * I * n);
  for (let i = 0; i < I; i++) {
    const samples = Float64Array.from({ length: N }, (_, t) => x[t * I + i]!);
    const before = data.grid
      ? Float64Array.from({ length: knots }, (_, j) => data.grid![i * knots + j]!)
      : uniform;
    const after = knotsOf(samples.slice().sort(), G, k, gridEps, margin);
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
