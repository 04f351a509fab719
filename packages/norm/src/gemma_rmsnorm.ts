import {
  Component,
  integer,
  number,
  schema,
  tensor,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { rowNorm } from "./row_norm/row_norm.js";

const eps = number("Added to the mean square.", { min: 0, default: 1e-6 });
const OPTIONS = schema("gemmaRmsNorm", {
  weight: tensor("Factor - 1, [dim].", { optional: true }),
  eps,
});
const GEMMA_RMS_NORM = schema("GemmaRMSNorm", { dim: integer("Width of x.", { min: 1 }), eps });
export type GemmaRMSNormOptions = Config<typeof OPTIONS>;
export type GemmaRMSNormConfig = Config<typeof GEMMA_RMS_NORM>;

/**
 * Gemma's RMSNorm: out = x / sqrt(mean(x^2) + eps) * (1 + weight); weight decay pulls the factor to 1.
 *
 * x [..., dim], weight [dim]; f32 or f16, statistics in f32. arXiv:2403.08295.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function gemmaRmsNorm(x: Tensor, options: GemmaRMSNormOptions = {}): Tensor {
  const { weight, eps } = OPTIONS.read(options);
  return rowNorm(x, { who: OPTIONS.name, divisor: "inside", eps, offset: 1, weight }).out;
}

/** `gemmaRmsNorm` with its weight, initially zeros. */
export class GemmaRMSNorm extends Component<typeof GEMMA_RMS_NORM> {
  static readonly schema = GEMMA_RMS_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: GemmaRMSNormConfig): ParameterPlan {
    return { weight: zeros(GEMMA_RMS_NORM.read(config).dim) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GemmaRMSNormConfig, parameters: Parameters) {
    super(GEMMA_RMS_NORM, config, GemmaRMSNorm.plan(config), parameters);
  }

  /** x [..., dim], f32 or f16; returns the same shape and dtype. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    return gemmaRmsNorm(x, { weight: this.weights["weight"], eps: this.config.eps });
  }
}
