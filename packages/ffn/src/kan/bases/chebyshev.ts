import {
  Component,
  e,
  expectDType,
  expectShape,
  exprFunction,
  input,
  integer,
  oneOf,
  schema,
  tensor,
  transpose,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { basisKernels, basisLinear, expectFeatures, type BasisKernels } from "./basis.js";
import { SHAPE, type KanLayer } from "../layer.js";

const FIELDS = {
  degree: integer("Highest polynomial.", { min: 0 }),
  squash: oneOf('"tanh" brings x into [-1, 1]; "none" takes x as it is.', ["tanh", "none"], {
    default: "tanh",
  }),
};
const OPTIONS = schema("kanChebyshev", FIELDS);
const WEIGHTS = schema("kanChebyshev", { coefficients: tensor("[in, out, degree + 1]") });
const CHEBYSHEV_KAN_LINEAR = schema("ChebyshevKanLinear", { ...SHAPE, ...FIELDS });
export type KanChebyshevOptions = Config<typeof OPTIONS>;
export type KanChebyshevWeights = Config<typeof WEIGHTS>;
export type ChebyshevKanConfig = Config<typeof CHEBYSHEV_KAN_LINEAR>;

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
export function kanChebyshev(x: Tensor, weights: KanChebyshevWeights, options: KanChebyshevOptions): Tensor {
  const who = OPTIONS.name;
  const features = expectFeatures(who, x);
  const { coefficients } = WEIGHTS.read(weights);
  const { degree, squash } = OPTIONS.read(options);
  expectDType(who, "coefficients", coefficients, "f32");
  expectShape(who, "coefficients", coefficients, [features, null, degree + 1]);
  const basis = { count: degree + 1, kernels: chebyshevKernels, variant: { squash: squash === "tanh" } };
  return x.gpu.scope(() => basisLinear(who, x, transpose(coefficients, [1, 0, 2]), basis));
}

/** `kanChebyshev` with its weights, under the name of ChebyKAN: cheby_coeffs, normal of deviation 1 / (in (degree + 1)). */
export class ChebyshevKanLinear extends Component<typeof CHEBYSHEV_KAN_LINEAR> implements KanLayer {
  static readonly schema = CHEBYSHEV_KAN_LINEAR;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: ChebyshevKanConfig): ParameterPlan {
    const { inFeatures, outFeatures, degree } = CHEBYSHEV_KAN_LINEAR.read(config);
    const init = { std: 1 / (inFeatures * (degree + 1)) };
    return { cheby_coeffs: { shape: [inFeatures, outFeatures, degree + 1], init } };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: ChebyshevKanConfig, parameters: Parameters) {
    super(CHEBYSHEV_KAN_LINEAR, config, ChebyshevKanLinear.plan(config), parameters);
  }

  /** x [..., in] f32; result [..., out]. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { degree, squash } = this.config;
    return kanChebyshev(x, { coefficients: this.weights["cheby_coeffs"]! }, { degree, squash });
  }
}
