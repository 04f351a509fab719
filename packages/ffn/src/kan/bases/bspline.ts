import {
  checkConfig,
  ConfigError,
  expectDType,
  expectInteger,
  expectNumber,
  expectShape,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { basisValues, expectFeatures, type Basis } from "./basis.js";
import { bsplineKernels } from "./bspline.wgsl.js";

/** The knots of a spline. */
export interface SplineOptions {
  /** Intervals G inside `gridRange`; default 5. */
  readonly gridSize?: number;
  /** Order k of the spline (3: cubic, the default); k knots more on both sides. */
  readonly splineOrder?: number;
  /** Default [-1, 1]. */
  readonly gridRange?: readonly [number, number];
}

export const SPLINE_KEYS = ["gridSize", "splineOrder", "gridRange"] as const;

export interface Spline {
  readonly gridSize: number;
  readonly splineOrder: number;
  readonly gridRange: readonly [number, number];
}

/** Highest order: the kernel keeps a basis per order in registers. */
const MAX_ORDER = 15;

/** Options with their defaults, checked. @throws ConfigError */
export function splineOf(who: string, options: SplineOptions): Spline {
  const { gridSize = 5, splineOrder = 3, gridRange = [-1, 1] } = options;
  expectInteger(who, "gridSize", gridSize, 1);
  expectInteger(who, "splineOrder", splineOrder, 0, MAX_ORDER);
  if (!Array.isArray(gridRange) || (gridRange as readonly unknown[]).length !== 2)
    throw new ConfigError(who, `gridRange is ${JSON.stringify(gridRange)}; it must be [low, high]`);
  const [low, high] = gridRange as readonly [number, number];
  expectNumber(who, "gridRange[0]", low);
  expectNumber(who, "gridRange[1]", high);
  if (!(low < high))
    throw new ConfigError(who, `gridRange is [${String(low)}, ${String(high)}]; low must be below high`);
  return { gridSize, splineOrder, gridRange: [low, high] };
}

/** Uniform knots lo + (j - k) h of one feature, h = (hi - lo) / G, j = 0..G + 2k, in double precision. */
export function splineKnots({ gridSize, splineOrder, gridRange: [low, high] }: Spline): Float64Array {
  const h = (high - low) / gridSize;
  return Float64Array.from({ length: gridSize + 2 * splineOrder + 1 }, (_, j) => low + (j - splineOrder) * h);
}

/** The uniform knots of every feature: [features, G + 2k + 1]. */
export function gridTensor(gpu: Gpu, spline: Spline, features: number): Tensor {
  const knots = splineKnots(spline);
  return gpu.tensor(
    Float64Array.from({ length: features * knots.length }, (_, i) => knots[i % knots.length]!),
    [features, knots.length],
  );
}

/** B-splines over the features of x: on the given knots, else on the uniform ones. */
export function splineBasis(who: string, x: Tensor, spline: Spline, grid?: Tensor): Basis {
  const features = expectFeatures(who, x);
  const { gridSize, splineOrder } = spline;
  if (grid) {
    expectDType(who, "grid", grid, "f32");
    expectShape(who, "grid", grid, [features, gridSize + 2 * splineOrder + 1]);
  }
  return {
    count: gridSize + splineOrder,
    kernels: bsplineKernels,
    ...(grid ? { grid } : {}),
    variant: { order: splineOrder, uniform: !grid },
    low: spline.gridRange[0],
    step: (spline.gridRange[1] - spline.gridRange[0]) / gridSize,
  };
}

/**
 * B-spline bases of order k, by the recurrence of Cox and de Boor on G intervals that k more knots extend on both
 * sides: B_{j,0} = 1 where t_j <= x < t_{j+1}, and
 * B_{j,r} = (x - t_j) / (t_{j+r} - t_j) B_{j,r-1} + (t_{j+r+1} - x) / (t_{j+r+1} - t_{j+1}) B_{j+1,r-1}.
 *
 * x [..., I] f32; grid [I, G + 2k + 1], rising, without a gradient; result [..., I, G + k]. Inside the range the bases
 * sum to 1; outside they fade, and beyond the extended knots they are 0. Liu et al. 2024, arXiv:2404.19756.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanBspline(
  x: Tensor,
  options: SplineOptions & { readonly grid?: Tensor | undefined } = {},
): Tensor {
  const who = "kanBspline";
  checkConfig(who, options, [...SPLINE_KEYS, "grid"]);
  return basisValues(who, x, splineBasis(who, x, splineOf(who, options), options.grid));
}
