import {
  boolean,
  Component,
  integer,
  number,
  schema,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { affinePlan } from "./affine.js";
import { rowNorm } from "./row_norm/row_norm.js";

const eps = number("Added to the variance.", { min: 0, default: 1e-5 });
const OPTIONS = schema("layerNorm", {
  weight: tensor("Factor, [dim].", { optional: true }),
  bias: tensor("Shift, [dim].", { optional: true }),
  eps,
});
const LAYER_NORM = schema("LayerNorm", {
  dim: integer("Width of x.", { min: 1 }),
  eps,
  bias: boolean("A learned shift after the factor.", { default: true }),
});
export type LayerNormOptions = Config<typeof OPTIONS>;
export type LayerNormConfig = Config<typeof LAYER_NORM>;

/**
 * LayerNorm: out = (x - mean) / sqrt(var + eps) * weight + bias over the last axis, var divided by dim.
 *
 * x [..., dim], weight and bias [dim], each optional; f32 or f16, statistics in f32 in two passes.
 * Ba et al. 2016, arXiv:1607.06450.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function layerNorm(x: Tensor, options: LayerNormOptions = {}): Tensor {
  const { weight, bias, eps } = OPTIONS.read(options);
  return rowNorm(x, { who: OPTIONS.name, center: true, divisor: "inside", eps, weight, bias }).out;
}

/** `layerNorm` with its weight, initially ones, and unless `bias` is false a bias, initially zeros. */
export class LayerNorm extends Component<typeof LAYER_NORM> {
  static readonly schema = LAYER_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: LayerNormConfig): ParameterPlan {
    const { dim, bias } = LAYER_NORM.read(config);
    return affinePlan(dim, bias);
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: LayerNormConfig, parameters: Parameters) {
    super(LAYER_NORM, config, LayerNorm.plan(config), parameters);
  }

  /** x [..., dim], f32 or f16; returns the same shape and dtype. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { weight, bias } = this.weights;
    return layerNorm(x, { weight, bias, eps: this.config.eps });
  }
}
