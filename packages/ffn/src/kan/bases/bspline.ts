import {
  ConfigError,
  expectDType,
  expectNumber,
  expectShape,
  expectTensor,
  integer,
  schema,
  tensor,
  type Config,
  type ConfigOf,
  type Field,
  type Gpu,
  type ResolvedOf,
  type Tensor,
} from "@x/kernels";
import { basisValues, expectFeatures, type Basis } from "./basis.js";
import { bsplineKernels } from "./bspline.wgsl.js";

/** Highest order: the kernel keeps a basis per order in registers. */
const MAX_ORDER = 15;

function checkRange(caller: string, key: string, given: unknown): void {
  if (!Array.isArray(given) || given.length !== 2)
    throw new ConfigError(caller, `${key} is ${JSON.stringify(given)}; it must be [low, high]`);
  const [low, high] = given as readonly unknown[];
  expectNumber(caller, `${key}[0]`, low);
  expectNumber(caller, `${key}[1]`, high);
  if (!(low < high)) throw new ConfigError(caller, `${key} is [${low}, ${high}]; low must be below high`);
}

const RANGE: Field<readonly [number, number], "default"> = {
  doc: "First and last knot of the intervals.",
  rule: "[low, high]",
  presence: "default",
  default: [-1, 1],
  check: checkRange,
};

/** The knots of a spline. */
export const SPLINE = {
  gridSize: integer("Number of intervals G inside gridRange.", { min: 1, default: 5 }),
  splineOrder: integer("Order k of the spline (3: cubic); k more knots lie on either side.", {
    min: 0,
    max: MAX_ORDER,
    default: 3,
  }),
  gridRange: RANGE,
};
export type SplineOptions = ConfigOf<typeof SPLINE>;
/** The knots of a spline, with the defaults filled in. */
export type Spline = ResolvedOf<typeof SPLINE>;

const OPTIONS = schema("kanBspline", {
  ...SPLINE,
  grid: tensor("Knots of each feature, [in, G + 2k + 1], rising.", { defaultDoc: "uniform" }),
});
export type KanBsplineOptions = Config<typeof OPTIONS>;

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
export function kanBspline(x: Tensor, options: KanBsplineOptions = {}): Tensor {
  const who = OPTIONS.name;
  expectTensor(who, "x", x);
  const { grid, ...spline } = OPTIONS.read(options);
  return basisValues(who, x, splineBasis(who, x, spline, grid));
}
