import {
  boolean,
  Component,
  expectTensor,
  integer,
  number,
  oneOf,
  schema,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { affinePlan } from "./affine.js";
import { rowNorm } from "./row_norm/row_norm.js";

const FIELDS = {
  p: number("Share of the features that the statistic is taken from; the paper: 0.0625.", {
    min: Number.MIN_VALUE,
    max: 1,
  }),
  rounding: oneOf(
    'How many features those are: "floor" of dim p, as the authors\' code, or "ceil", as the paper; at least 1.',
    ["floor", "ceil"],
    { default: "floor" },
  ),
  eps: number("Added to the mean square, or to its root.", { min: 0, default: 1e-8 }),
  epsPlacement: oneOf("Where eps is added: under the root, or outside it.", ["inside", "outside"], {
    default: "outside",
  }),
};
const OPTIONS = schema("partialRmsNorm", {
  weight: tensor("Factor, [dim].", { optional: true }),
  bias: tensor("Shift, [dim].", { optional: true }),
  ...FIELDS,
});
const PARTIAL_RMS_NORM = schema("PartialRMSNorm", {
  dim: integer("Width of x.", { min: 1 }),
  ...FIELDS,
  bias: boolean("A learned shift after the factor.", { default: false }),
});
export type PartialRMSNormOptions = Config<typeof OPTIONS>;
export type PartialRMSNormConfig = Config<typeof PARTIAL_RMS_NORM>;

/**
 * Partial RMSNorm: every feature is divided by the root mean square of the first k = max(1, rounding(dim p)) of them:
 * out = x / (sqrt(sum_{i<k} x_i^2 / k) + eps) * weight + bias.
 *
 * x [..., dim], weight and bias [dim], each optional; f32 or f16, statistics in f32. Zhang and Sennrich 2019,
 * arXiv:1910.07467, section 4.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function partialRmsNorm(x: Tensor, options: PartialRMSNormOptions): Tensor {
  const { p, rounding, eps, epsPlacement, weight, bias } = OPTIONS.read(options);
  expectTensor(OPTIONS.name, "x", x);
  const k = Math.max(1, Math[rounding]((x.shape.at(-1) ?? 0) * p));
  return rowNorm(x, { who: OPTIONS.name, divisor: epsPlacement, eps, k, weight, bias }).out;
}

/** `partialRmsNorm` with its weight, initially ones, and with `bias` a bias, initially zeros. */
export class PartialRMSNorm extends Component<typeof PARTIAL_RMS_NORM> {
  static readonly schema = PARTIAL_RMS_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: PartialRMSNormConfig): ParameterPlan {
    const { dim, bias } = PARTIAL_RMS_NORM.read(config);
    return affinePlan(dim, bias);
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: PartialRMSNormConfig, parameters: Parameters) {
    super(PARTIAL_RMS_NORM, config, PartialRMSNorm.plan(config), parameters);
  }

  /** x [..., dim], f32 or f16; returns the same shape and dtype. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { p, rounding, eps, epsPlacement } = this.config;
    const { weight, bias } = this.weights;
    return partialRmsNorm(x, { weight, bias, p, rounding, eps, epsPlacement });
  }
}
