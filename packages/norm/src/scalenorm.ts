import {
  Component,
  expectDType,
  integer,
  number,
  schema,
  ShapeError,
  showShape,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { rowNorm } from "./row_norm/row_norm.js";

const L2 = schema("l2Normalize", { eps: number("Least divisor.", { min: 0, default: 1e-12 }) });
const eps = number("Least divisor.", { min: 0, default: 1e-5 });
const OPTIONS = schema("scaleNorm", { g: tensor("The factor of all features, f32 [1]."), eps });
const SCALE_NORM = schema("ScaleNorm", { dim: integer("Width of x.", { min: 1 }), eps });
export type L2NormalizeOptions = Config<typeof L2>;
export type ScaleNormOptions = Config<typeof OPTIONS>;
export type ScaleNormConfig = Config<typeof SCALE_NORM>;

/**
 * Rows of length 1: out = x / max(||x||_2, eps) over the last axis.
 *
 * x [..., dim], f32 or f16; the length is taken in f32.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function l2Normalize(x: Tensor, options: L2NormalizeOptions = {}): Tensor {
  return rowNorm(x, { who: L2.name, divisor: "length", eps: L2.read(options).eps }).out;
}

/**
 * ScaleNorm: out = g x / max(||x||_2, eps), with one scalar g that starts at sqrt(dim).
 *
 * x [..., dim], f32 or f16; g f32 [1]. Nguyen and Salazar 2019, arXiv:1910.05895.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function scaleNorm(x: Tensor, options: ScaleNormOptions): Tensor {
  const who = OPTIONS.name;
  const { g, eps } = OPTIONS.read(options);
  if (g.size !== 1) throw new ShapeError(who, `g has shape ${showShape(g.shape)}; it must be [1]`);
  expectDType(who, "g", g, "f32");
  return rowNorm(x, { who, divisor: "length", eps, gain: g }).out;
}

/** `scaleNorm` with its one parameter g, initially sqrt(dim). */
export class ScaleNorm extends Component<typeof SCALE_NORM> {
  static readonly schema = SCALE_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: ScaleNormConfig): ParameterPlan {
    return { g: { shape: [1], init: Math.sqrt(SCALE_NORM.read(config).dim) } };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: ScaleNormConfig, parameters: Parameters) {
    super(SCALE_NORM, config, ScaleNorm.plan(config), parameters);
  }

  /** x [..., dim], f32 or f16; returns the same shape and dtype. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    return scaleNorm(x, { g: this.weights["g"]!, eps: this.config.eps });
  }
}
