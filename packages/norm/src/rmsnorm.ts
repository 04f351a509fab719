import {
  boolean,
  Component,
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
  eps: number("Added to the mean square, or to its root.", { min: 0, default: 1e-6 }),
  epsPlacement: oneOf(
    'Where eps is added: under the root, as everyone trains, or "outside" it, as in the authors\' code.',
    ["inside", "outside"],
    { default: "inside" },
  ),
};
const OPTIONS = schema("rmsNorm", {
  weight: tensor("Factor, [dim].", { optional: true }),
  bias: tensor("Shift, [dim].", { optional: true }),
  ...FIELDS,
});
const RMS_NORM = schema("RMSNorm", {
  dim: integer("Width of x.", { min: 1 }),
  ...FIELDS,
  bias: boolean("A learned shift after the factor.", { default: false }),
});
export type RMSNormOptions = Config<typeof OPTIONS>;
export type RMSNormConfig = Config<typeof RMS_NORM>;

/**
 * RMSNorm: out = x / sqrt(mean(x^2) + eps) * weight + bias over the last axis; with eps "outside" the divisor is
 * sqrt(mean(x^2)) + eps.
 *
 * x [..., dim], weight and bias [dim], each optional; f32 or f16, statistics in f32. Zhang and Sennrich 2019,
 * arXiv:1910.07467, equation 4.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function rmsNorm(x: Tensor, options: RMSNormOptions = {}): Tensor {
  const { eps, epsPlacement, weight, bias } = OPTIONS.read(options);
  return rowNorm(x, { who: OPTIONS.name, divisor: epsPlacement, eps, weight, bias }).out;
}

/** `rmsNorm` with its weight, initially ones, and with `bias` a bias, initially zeros. */
export class RMSNorm extends Component<typeof RMS_NORM> {
  static readonly schema = RMS_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: RMSNormConfig): ParameterPlan {
    const { dim, bias } = RMS_NORM.read(config);
    return affinePlan(dim, bias);
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: RMSNormConfig, parameters: Parameters) {
    super(RMS_NORM, config, RMSNorm.plan(config), parameters);
  }

  /** x [..., dim], f32 or f16; returns the same shape and dtype. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { eps, epsPlacement } = this.config;
    const { weight, bias } = this.weights;
    return rmsNorm(x, { weight, bias, eps, epsPlacement });
  }
}
