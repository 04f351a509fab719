import {
  boolean,
  Component,
  expectDType,
  expectShape,
  matmul,
  number,
  randomUniform,
  schema,
  ShapeError,
  showShape,
  type Config,
  type Draw,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { gridTensor, splineKnots, type Spline } from "./bases/bspline.js";
import { bases, GRID_UPDATE, kanGridUpdate } from "./grid_update.js";
import { kan, KAN_FIELDS, type KanWeights } from "./kan.js";
import { kaiming, SHAPE, withoutGrids, type KanLayer } from "./layer.js";
import { leastSquares } from "./least_squares.js";
import {
  kanActivationRegularization,
  kanWeightRegularization,
  REGULARIZATION,
  type KanRegularization,
  type KanRegularizationWeights,
} from "./regularization.js";

const KAN_LINEAR = schema("KanLinear", {
  ...SHAPE,
  ...KAN_FIELDS,
  scaler: boolean("Edges have a factor of their own, spline_scaler.", { default: true }),
  noise: number("Initial splines go through uniform noise of this size / G at the knots.", {
    min: 0,
    default: 0.1,
  }),
});
const REGULARIZE = schema("KanLinear.regularization", REGULARIZATION);
const UPDATE = schema("KanLinear.updateGrid", GRID_UPDATE);
export type KanLinearConfig = Config<typeof KAN_LINEAR>;
export type KanLinearUpdateOptions = Config<typeof UPDATE>;

/** Least-norm spline weights [n, G + 1] of a function that is 1 at one inner knot and 0 at the others. */
function interpolation(spline: Spline): { data: Float64Array; knots: number; n: number } {
  const { gridSize: G, splineOrder: k } = spline;
  const knots = splineKnots(spline);
  const [m, n] = [G + 1, G + k];
  const a = new Float64Array(m * n);
  for (let j = 0; j < m; j++) bases(knots[k + j]!, knots, k, a.subarray(j * n, (j + 1) * n));
  const gram = new Float64Array(m * m);
  const unit = new Float64Array(m * m);
  for (let i = 0; i < m; i++) {
    unit[i * m + i] = 1;
    for (let j = 0; j < m; j++) for (let l = 0; l < n; l++) gram[i * m + j]! += a[i * n + l]! * a[j * n + l]!;
  }
  const inverse = leastSquares(gram, unit, m, m, m);
  const data = new Float64Array(n * m);
  for (let l = 0; l < n; l++)
    for (let j = 0; j < m; j++)
      for (let i = 0; i < m; i++) data[l * m + j]! += a[i * n + l]! * inverse[i * m + j]!;
  return { data, knots: m, n };
}

/** Draws splines that go through uniform noise within noise / 2 G at the inner knots. */
const splines =
  (spline: Spline, noise: number): Draw =>
  (gpu, shape, random) => {
    const { data, knots, n } = interpolation(spline);
    const high = noise / (2 * (knots - 1));
    const values = randomUniform(gpu, [shape[0]! * shape[1]!, knots], { ...random, low: -high, high });
    return matmul(values, gpu.tensor(data, [n, knots]), { transposeB: true }).reshape(shape);
  };

/**
 * `kan` with its weights, under the names of efficient-kan and with its initial values: base_weight and spline_scaler
 * Kaiming uniform, spline_weight through small noise at the knots; and once the knots were moved, the buffer grid.
 */
export class KanLinear extends Component<typeof KAN_LINEAR> implements KanLayer {
  static readonly schema = KAN_LINEAR;
  #grid: Tensor | undefined;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: KanLinearConfig): ParameterPlan {
    const { inFeatures, outFeatures, baseActivation, scaler, noise, ...spline } = KAN_LINEAR.read(config);
    const shape = [outFeatures, inFeatures];
    return {
      spline_weight: {
        shape: [...shape, spline.gridSize + spline.splineOrder],
        init: splines(spline, noise),
      },
      ...(scaler ? { spline_scaler: { shape, init: kaiming } } : {}),
      ...(baseActivation === "none" ? {} : { base_weight: { shape, init: kaiming } }),
    };
  }

  /**
   * @param parameters as planned, and with moved knots `grid` f32 [in, G + 2k + 1], which `updateGrid` overwrites
   * @throws ConfigError, ShapeError, DTypeError
   */
  constructor(config: KanLinearConfig, parameters: Parameters) {
    const { planned, grids } = withoutGrids(KAN_LINEAR.name, parameters, /^grid$/);
    super(KAN_LINEAR, config, KanLinear.plan(config), planned);
    const { inFeatures, gridSize, splineOrder } = this.config;
    if (!("grid" in grids)) return;
    expectDType(KAN_LINEAR.name, "parameter grid", grids["grid"], "f32");
    expectShape(KAN_LINEAR.name, "parameter grid", grids["grid"], [
      inFeatures,
      gridSize + 2 * splineOrder + 1,
    ]);
    this.#grid = grids["grid"];
  }

  get #named(): KanWeights {
    const { spline_weight, spline_scaler, base_weight } = this.weights;
    return {
      splineWeight: spline_weight!,
      splineScaler: spline_scaler,
      baseWeight: base_weight,
      grid: this.#grid,
    };
  }

  get #spline(): Spline {
    const { gridSize, splineOrder, gridRange } = this.config;
    return { gridSize, splineOrder, gridRange };
  }

  /** x [..., in] f32; result [..., out]. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    return kan(x, this.#named, { ...this.#spline, baseActivation: this.config.baseActivation });
  }

  /** Of the weights, or with samples x [..., in] of the edges' functions. @throws ConfigError, ShapeError, DTypeError */
  regularization(options: KanRegularizationWeights = {}, x?: Tensor): KanRegularization {
    const factors = REGULARIZE.read(options);
    if (x === undefined) return kanWeightRegularization(this.weights["spline_weight"]!, factors);
    const { baseActivation } = this.config;
    return kanActivationRegularization(x, this.#named, { ...this.#spline, baseActivation, ...factors });
  }

  /**
   * Moves the knots to where samples x [..., in] f32 lie and refits the splines; see `kanGridUpdate`.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  async updateGrid(x: Tensor, options: KanLinearUpdateOptions = {}): Promise<void> {
    const features = this.config.inFeatures;
    expectDType(UPDATE.name, "x", x, "f32");
    if (x.shape.at(-1) !== features)
      throw new ShapeError(UPDATE.name, `x has shape ${showShape(x.shape)}; it must be [..., ${features}]`);
    const settings = { ...this.#spline, ...UPDATE.read(options) };
    const weight = this.weights["spline_weight"]!;
    const [samples, splineWeight, grid] = [await x.read(), await weight.read(), await this.#grid?.read()];
    const next = kanGridUpdate({ x: samples, features, splineWeight, grid }, settings);
    weight.write(next.splineWeight);
    const { gpu } = weight;
    this.#grid ??= this.own(gpu.keep(gridTensor(gpu, this.#spline, features)));
    this.#grid.write(next.grid);
  }

  /** The knots, once they are no longer the uniform ones: kept with a checkpoint, not trained. */
  override buffers(): Record<string, Tensor> {
    return { ...super.buffers(), ...(this.#grid ? { grid: this.#grid } : {}) };
  }
}
