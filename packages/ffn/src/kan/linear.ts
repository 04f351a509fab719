import { checkConfig, expectShape, matmul, randomUniform, type Gpu, type Tensor } from "@x/kernels";
import { kan, type KanOptions } from "./kan.js";
import { gridTensor, SPLINE_KEYS, splineKnots, splineOf } from "./bases/bspline.js";
import { bases, kanGridUpdate, type KanGridUpdateOptions } from "./grid_update.js";
import {
  checkShape,
  INIT_KEYS,
  kaiming,
  SHAPE_KEYS,
  takeWeights,
  without,
  type KanInit,
  type KanLayer,
  type KanShape,
} from "./layer.js";
import {
  kanActivationRegularization,
  kanWeightRegularization,
  type KanRegularization,
  type KanRegularizationWeights,
} from "./regularization.js";
import { leastSquares } from "./least_squares.js";

export interface KanLinearConfig extends KanShape, KanOptions {
  /** Edges have a factor of their own, spline_scaler; default true. */
  readonly scaler?: boolean;
}

/** Least-norm spline weights [n, G + 1] of a function that is 1 at one inner knot and 0 at the others. */
function interpolation(config: KanOptions): { data: Float64Array; knots: number; n: number } {
  const spline = splineOf("KanLinear", config);
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

/** `kan` with its weights, under the names of efficient-kan: base_weight, spline_weight, spline_scaler, grid. */
export class KanLinear implements KanLayer {
  readonly config: KanLinearConfig;
  readonly #weights: Record<string, Tensor>;
  readonly #options: KanOptions;
  #grid: Tensor | undefined;

  constructor(config: KanLinearConfig, weights: Readonly<Record<string, Tensor>>) {
    const who = "KanLinear";
    checkConfig(who, config, [...SHAPE_KEYS, ...SPLINE_KEYS, "baseActivation", "scaler"]);
    checkShape(who, config);
    const { inFeatures, outFeatures, scaler = true } = config;
    const options = without(config, "inFeatures", "outFeatures", "scaler");
    const { gridSize, splineOrder } = splineOf(who, options);
    const edges = [outFeatures, inFeatures];
    this.#weights = takeWeights(who, weights, {
      spline_weight: [...edges, gridSize + splineOrder],
      spline_scaler: scaler ? edges : undefined,
      base_weight: config.baseActivation === "none" ? undefined : edges,
    });
    const grid = weights["grid"];
    if (grid) expectShape(who, "grid", grid, [inFeatures, gridSize + 2 * splineOrder + 1]);
    this.config = config;
    this.#options = options;
    this.#grid = grid;
  }

  /** efficient-kan's start: base and scaler Kaiming uniform, splines through noise of size `noise` / G at the knots. */
  static init(gpu: Gpu, config: KanLinearConfig, init: KanInit & { readonly noise?: number }): KanLinear {
    checkShape("KanLinear", config);
    checkConfig("KanLinear", init, [...INIT_KEYS, "noise"]);
    const { seed, stream = 0, noise = 0.1 } = init;
    const { inFeatures, outFeatures } = config;
    const { data, knots, n } = interpolation(config);
    const size = noise / (2 * (knots - 1));
    const spline = gpu.scope(() => {
      const values = randomUniform(gpu, [outFeatures * inFeatures, knots], {
        seed,
        stream,
        low: -size,
        high: size,
      });
      const weight = matmul(values, gpu.tensor(data, [n, knots]), { transposeB: true });
      return gpu.keep(weight.reshape([outFeatures, inFeatures, n]));
    });
    return new KanLinear(config, {
      spline_weight: spline,
      ...(config.scaler === false ? {} : { spline_scaler: kaiming(gpu, config, seed, stream + 1) }),
      ...(config.baseActivation === "none" ? {} : { base_weight: kaiming(gpu, config, seed, stream + 2) }),
    });
  }

  get #named(): Parameters<typeof kan>[1] {
    const { spline_weight, spline_scaler, base_weight } = this.#weights;
    return {
      splineWeight: spline_weight!,
      splineScaler: spline_scaler,
      baseWeight: base_weight,
      grid: this.#grid,
    };
  }

  forward(x: Tensor): Tensor {
    return kan(x, this.#named, this.#options);
  }

  /** Of the weights, or with samples x [..., in] of the edges' functions. */
  regularization(options: KanRegularizationWeights = {}, x?: Tensor): KanRegularization {
    if (!x) return kanWeightRegularization(this.#weights["spline_weight"]!, options);
    return kanActivationRegularization(x, this.#named, { ...this.#options, ...options });
  }

  /** Move the knots to where samples x [..., in] lie and refit the splines; see `kanGridUpdate`. */
  async updateGrid(x: Tensor, options: Pick<KanGridUpdateOptions, "gridEps" | "margin"> = {}): Promise<void> {
    const { gridSize, splineOrder, gridRange } = splineOf("KanLinear", this.#options);
    const features = this.config.inFeatures;
    const weight = this.#weights["spline_weight"]!;
    const { grid, splineWeight } = kanGridUpdate(
      {
        x: await x.read(),
        features,
        splineWeight: await weight.read(),
        grid: this.#grid && (await this.#grid.read()),
      },
      { gridSize, splineOrder, gridRange, ...options },
    );
    weight.write(splineWeight);
    this.#grid ??= weight.gpu.keep(gridTensor(weight.gpu, { gridSize, splineOrder, gridRange }, features));
    this.#grid.write(grid);
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#weights };
  }

  /** The knots, once they are no longer the uniform ones: kept with a checkpoint, not trained. */
  buffers(): Record<string, Tensor> {
    return this.#grid ? { grid: this.#grid } : {};
  }
}
