import {
  checkConfig,
  ConfigError,
  expectDType,
  expectInteger,
  expectShape,
  mul,
  transpose,
  randomNormal,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { basisKernels, basisLinear, expectFeatures, type BasisKernels } from "./basis.js";
import {
  checkShape,
  INIT_KEYS,
  SHAPE_KEYS,
  takeWeights,
  type KanInit,
  type KanLayer,
  type KanShape,
} from "../layer.js";
import { SIN_COS } from "./sincos.wgsl.js";

export interface KanFourierOptions {
  /** Number of frequencies; default: as many as the coefficients have. */
  readonly gridSize?: number;
}

/** cos x .. cos Gx, then sin x .. sin Gx. The angle is turned by x once per frequency; n = 2 G. */
const fourierKernels: BasisKernels = basisKernels("kanFourier", {
  expand: () => /* wgsl */ `${SIN_COS}
fn expand(x: f32, feature: u32, base: u32) {
  let step = sin_cos(x);
  let half = params.n / 2u;
  var z = step;
  for (var g = 0u; g < half; g++) {
    phi[base + g] = z.y;
    phi[base + half + g] = z.x;
    z = vec2f(z.x * step.y + z.y * step.x, z.y * step.y - z.x * step.x);
  }
}`,
  pull: () => /* wgsl */ `${SIN_COS}
fn pull(x: f32, feature: u32, base: u32) -> f32 {
  let step = sin_cos(x);
  let half = params.n / 2u;
  var z = step;
  var total = 0.0;
  for (var g = 0u; g < half; g++) {
    total += f32(g + 1u) * (dphi[base + half + g] * z.y - dphi[base + g] * z.x);
    z = vec2f(z.x * step.y + z.y * step.x, z.y * step.y - z.x * step.x);
  }
  return total;
}`,
});

export interface KanFourierWeights {
  /** Of the cosines, then of the sines: [2, out, in, G] */
  readonly coefficients: Tensor;
  /** [out] */
  readonly bias?: Tensor | undefined;
}

/**
 * A KAN layer on Fourier series:
 * out_o = bias_o + sum_{i, g = 1..G} (cos(g x_i) coefficients[0, o, i, g - 1] + sin(g x_i) coefficients[1, o, i, g - 1]).
 *
 * x [..., in] f32; result [..., out]. After GistNoesis/FourierKAN.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanFourier(x: Tensor, weights: KanFourierWeights, options: KanFourierOptions = {}): Tensor {
  const who = "kanFourier";
  checkConfig(who, options, ["gridSize"]);
  const { coefficients, bias } = weights;
  const features = expectFeatures(who, x);
  expectDType(who, "coefficients", coefficients, "f32");
  const { out = 0, G = 0 } = expectShape(who, "coefficients", coefficients, [2, "out", features, "G"]);
  const gridSize = options.gridSize ?? G;
  expectInteger(who, "gridSize", gridSize, 1);
  if (gridSize !== G)
    throw new ConfigError(
      who,
      `gridSize is ${String(gridSize)}; the coefficients have ${String(G)} frequencies`,
    );
  if (bias) {
    expectDType(who, "bias", bias, "f32");
    expectShape(who, "bias", bias, [out]);
  }
  const basis = { count: 2 * G, kernels: fourierKernels, variant: {} };
  return x.gpu.scope(() => {
    const weight = transpose(coefficients, [1, 2, 0, 3]).reshape([out, features, 2 * G]);
    return basisLinear(who, x, weight, basis, { bias });
  });
}

export interface FourierKanConfig extends KanShape {
  /** Frequencies. */
  readonly gridSize: number;
  /** Default true. */
  readonly bias?: boolean;
}

/** `kanFourier` with its weights, under the names of FourierKAN: fouriercoeffs, bias. */
export class FourierKanLinear implements KanLayer {
  readonly config: FourierKanConfig;
  readonly #weights: Record<string, Tensor>;

  constructor(config: FourierKanConfig, weights: Readonly<Record<string, Tensor>>) {
    const who = "FourierKanLinear";
    checkConfig(who, config, [...SHAPE_KEYS, "gridSize", "bias"]);
    checkShape(who, config);
    this.config = config;
    const { inFeatures, outFeatures, gridSize } = config;
    expectInteger(who, "gridSize", gridSize, 1);
    this.#weights = takeWeights(who, weights, {
      fouriercoeffs: [2, outFeatures, inFeatures, gridSize],
      bias: config.bias === false ? undefined : [outFeatures],
    });
  }

  /**
   * Normal coefficients of deviation 1 / (sqrt(in) sqrt(gridSize)), or 1 / (sqrt(in) g^2) for frequency g with
   * `smooth`; the bias is 0.
   */
  static init(gpu: Gpu, config: FourierKanConfig, init: KanInit): FourierKanLinear {
    checkShape("FourierKanLinear", config);
    checkConfig("FourierKanLinear", init, INIT_KEYS);
    const { inFeatures, outFeatures, gridSize } = config;
    const { seed, stream = 0, smooth = false } = init;
    expectInteger("FourierKanLinear", "gridSize", gridSize, 1);
    const deviations = Array.from(
      { length: gridSize },
      (_, g) => 1 / Math.sqrt(inFeatures) / (smooth ? (g + 1) ** 2 : Math.sqrt(gridSize)),
    );
    const shape = [2, outFeatures, inFeatures, gridSize];
    const coefficients = gpu.scope(() =>
      gpu.keep(mul(randomNormal(gpu, shape, { seed, stream }), gpu.tensor(deviations, [gridSize]))),
    );
    return new FourierKanLinear(config, {
      fouriercoeffs: coefficients,
      ...(config.bias === false ? {} : { bias: gpu.keep(gpu.zeros([outFeatures])) }),
    });
  }

  forward(x: Tensor): Tensor {
    const { fouriercoeffs, bias } = this.#weights;
    return kanFourier(x, { coefficients: fouriercoeffs!, bias }, { gridSize: this.config.gridSize });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#weights };
  }
}
