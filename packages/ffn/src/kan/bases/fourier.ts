import {
  boolean,
  Component,
  ConfigError,
  expectDType,
  expectShape,
  integer,
  mul,
  randomNormal,
  schema,
  tensor,
  transpose,
  zeros,
  type Config,
  type Draw,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { basisKernels, basisLinear, expectFeatures, type BasisKernels } from "./basis.js";
import { SHAPE, type KanLayer } from "../layer.js";
import { SIN_COS } from "./sincos.wgsl.js";

const OPTIONS = schema("kanFourier", {
  gridSize: integer("Number of frequencies G.", { min: 1, defaultDoc: "that of the coefficients" }),
});
const WEIGHTS = schema("kanFourier", {
  coefficients: tensor("Of the cosines, then of the sines, [2, out, in, G]."),
  bias: tensor("[out]", { optional: true }),
});
const FOURIER_KAN_LINEAR = schema("FourierKanLinear", {
  ...SHAPE,
  gridSize: integer("Number of frequencies G.", { min: 1 }),
  bias: boolean("A learned shift.", { default: true }),
  smooth: boolean(
    "Initial coefficients fall with the square of the frequency, so that functions are smooth (their slopes otherwise " +
      "grow with the grid, and two layers in a row are noise to each other).",
    { default: false },
  ),
});
export type KanFourierOptions = Config<typeof OPTIONS>;
export type KanFourierWeights = Config<typeof WEIGHTS>;
export type FourierKanConfig = Config<typeof FOURIER_KAN_LINEAR>;

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

/**
 * A KAN layer on Fourier series:
 * out_o = bias_o + sum_{i, g = 1..G} (cos(g x_i) coefficients[0, o, i, g - 1] + sin(g x_i) coefficients[1, o, i, g - 1]).
 *
 * x [..., in] f32; result [..., out]. After GistNoesis/FourierKAN.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanFourier(x: Tensor, weights: KanFourierWeights, options: KanFourierOptions = {}): Tensor {
  const who = OPTIONS.name;
  const features = expectFeatures(who, x);
  const { coefficients, bias } = WEIGHTS.read(weights);
  const given = OPTIONS.read(options);
  expectDType(who, "coefficients", coefficients, "f32");
  const { out = 0, G = 0 } = expectShape(who, "coefficients", coefficients, [2, "out", features, "G"]);
  const { gridSize = G } = given;
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

/**
 * `kanFourier` with its weights, under the names of FourierKAN: fouriercoeffs, normal of deviation
 * 1 / (sqrt(in) sqrt(G)), or with `smooth` 1 / (sqrt(in) g^2) for frequency g, and bias, zero.
 */
export class FourierKanLinear extends Component<typeof FOURIER_KAN_LINEAR> implements KanLayer {
  static readonly schema = FOURIER_KAN_LINEAR;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: FourierKanConfig): ParameterPlan {
    const { inFeatures, outFeatures, gridSize, bias, smooth } = FOURIER_KAN_LINEAR.read(config);
    const deviations = Array.from(
      { length: gridSize },
      (_, g) => 1 / Math.sqrt(inFeatures) / (smooth ? (g + 1) ** 2 : Math.sqrt(gridSize)),
    );
    const init: Draw = (gpu, shape, random) =>
      mul(randomNormal(gpu, shape, random), gpu.tensor(deviations, [gridSize]));
    return {
      fouriercoeffs: { shape: [2, outFeatures, inFeatures, gridSize], init },
      ...(bias ? { bias: zeros(outFeatures) } : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: FourierKanConfig, parameters: Parameters) {
    super(FOURIER_KAN_LINEAR, config, FourierKanLinear.plan(config), parameters);
  }

  /** x [..., in] f32; result [..., out]. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { fouriercoeffs, bias } = this.weights;
    return kanFourier(x, { coefficients: fouriercoeffs!, bias }, { gridSize: this.config.gridSize });
  }
}
