import {
  checkConfig,
  e,
  expectDType,
  expectInteger,
  expectOneOf,
  expectShape,
  exprFunction,
  input,
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

export interface KanChebyshevOptions {
  /** Highest polynomial. */
  readonly degree: number;
  /** "tanh" (default) brings x into [-1, 1]; "none" takes it as it is. */
  readonly squash?: "tanh" | "none";
}

const tanh = exprFunction("squashed", ["x"], e.tanh(input("x")));

/** T_0 = 1, T_1 = z, T_{j+1} = 2 z T_j - T_{j-1}; and the same recurrence, differentiated. */
const chebyshevKernels: BasisKernels = basisKernels("kanChebyshev", {
  expand: ({ squash }) => /* wgsl */ `${tanh}
fn expand(x: f32, feature: u32, base: u32) {
  let z = ${squash ? "squashed(x)" : "x"};
  var previous = z;
  var value = 1.0;
  for (var j = 0u; j < params.n; j++) {
    phi[base + j] = value;
    let next = 2.0 * z * value - previous;
    previous = value;
    value = next;
  }
}`,
  pull: ({ squash }) => /* wgsl */ `${tanh}
fn pull(x: f32, feature: u32, base: u32) -> f32 {
  let z = ${squash ? "squashed(x)" : "x"};
  var previous = z;
  var value = 1.0;
  var slope_before = 1.0;
  var slope = 0.0;
  var total = 0.0;
  for (var j = 0u; j < params.n; j++) {
    total += dphi[base + j] * slope;
    let next = 2.0 * z * value - previous;
    let slope_next = 2.0 * value + 2.0 * z * slope - slope_before;
    previous = value;
    value = next;
    slope_before = slope;
    slope = slope_next;
  }
  ${
    squash
      ? // 1 - tanh(x)^2 without cancellation.
        "let t = exp(-2.0 * abs(x)); return total * 4.0 * t / ((1.0 + t) * (1.0 + t));"
      : "return total;"
  }
}`,
});

/**
 * A KAN layer on Chebyshev polynomials: z = tanh(x), out_o = sum_{i, n} T_n(z_i) coefficients[i, o, n], by the
 * recurrence T_{n+1} = 2 z T_n - T_{n-1} (cos(n arccos z) has infinite slopes at the ends, which tanh reaches).
 *
 * x [..., in] f32; coefficients [in, out, degree + 1]; result [..., out]. Sidharth et al. 2024, arXiv:2405.07200.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanChebyshev(
  x: Tensor,
  weights: { readonly coefficients: Tensor },
  options: KanChebyshevOptions,
): Tensor {
  const who = "kanChebyshev";
  checkConfig(who, options, ["degree", "squash"]);
  const { degree, squash = "tanh" } = options;
  expectInteger(who, "degree", degree, 0);
  expectOneOf(who, "squash", squash, ["tanh", "none"]);
  const features = expectFeatures(who, x);
  expectDType(who, "coefficients", weights.coefficients, "f32");
  expectShape(who, "coefficients", weights.coefficients, [features, null, degree + 1]);
  const basis = { count: degree + 1, kernels: chebyshevKernels, variant: { squash: squash === "tanh" } };
  return x.gpu.scope(() => basisLinear(who, x, transpose(weights.coefficients, [1, 0, 2]), basis));
}

export interface ChebyshevKanConfig extends KanShape, KanChebyshevOptions {}

/** `kanChebyshev` with its weights, under the name of ChebyKAN: cheby_coeffs. */
export class ChebyshevKanLinear implements KanLayer {
  readonly config: ChebyshevKanConfig;
  readonly #coefficients: Tensor;

  constructor(config: ChebyshevKanConfig, weights: Readonly<Record<string, Tensor>>) {
    checkConfig("ChebyshevKanLinear", config, [...SHAPE_KEYS, "degree", "squash"]);
    checkShape("ChebyshevKanLinear", config);
    expectInteger("ChebyshevKanLinear", "degree", config.degree, 0);
    this.config = config;
    const { inFeatures, outFeatures, degree } = config;
    this.#coefficients = takeWeights("ChebyshevKanLinear", weights, {
      cheby_coeffs: [inFeatures, outFeatures, degree + 1],
    })["cheby_coeffs"]!;
  }

  /** Normal coefficients of deviation 1 / (in (degree + 1)). */
  static init(gpu: Gpu, config: ChebyshevKanConfig, init: KanInit): ChebyshevKanLinear {
    checkShape("ChebyshevKanLinear", config);
    checkConfig("ChebyshevKanLinear", init, INIT_KEYS);
    const { inFeatures, outFeatures, degree } = config;
    const { seed, stream = 0 } = init;
    expectInteger("ChebyshevKanLinear", "degree", degree, 0);
    const std = 1 / (inFeatures * (degree + 1));
    const shape = [inFeatures, outFeatures, degree + 1];
    return new ChebyshevKanLinear(config, {
      cheby_coeffs: gpu.keep(randomNormal(gpu, shape, { seed, stream, std })),
    });
  }

  forward(x: Tensor): Tensor {
    const { degree, squash = "tanh" } = this.config;
    return kanChebyshev(x, { coefficients: this.#coefficients }, { degree, squash });
  }

  parameters(): Record<string, Tensor> {
    return { cheby_coeffs: this.#coefficients };
  }
}
