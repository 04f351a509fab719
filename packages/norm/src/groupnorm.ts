import {
  add,
  Component,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectShape,
  integer,
  mul,
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
import { affinePlan } from "./affine.js";
import { rowNorm } from "./row_norm/row_norm.js";

const FIELDS = {
  numGroups: integer(
    "Groups that the channels are cut into: 1 is a LayerNorm over all channels and places, `dim` an InstanceNorm.",
    { min: 1 },
  ),
  eps: number("Added to the variance.", { min: 0, default: 1e-5 }),
};
const OPTIONS = schema("groupNorm", {
  ...FIELDS,
  weight: tensor("Factor, [channels].", { optional: true }),
  bias: tensor("Shift, [channels].", { optional: true }),
});
const GROUP_NORM = schema("GroupNorm", { dim: integer("Number of channels.", { min: 1 }), ...FIELDS });
export type GroupNormOptions = Config<typeof OPTIONS>;
export type GroupNormConfig = Config<typeof GROUP_NORM>;

const affine = elementwise("groupNormAffine", ["x", "weight", "bias"], (x, weight, bias) =>
  e.add(e.mul(x, weight), bias),
);

function expectGroups(who: string, numGroups: number, channels: number): void {
  if (channels % numGroups !== 0)
    throw new ConfigError(who, `numGroups is ${numGroups}; it must divide the ${channels} channels`);
}

/**
 * GroupNorm: out = (x - mean) / sqrt(var + eps) * weight + bias, with mean and var (divided by the count) of each group
 * of channels / numGroups neighbouring channels of a row of the batch, over all its places.
 *
 * x [batch, channels, ...places], weight and bias [channels], each optional; f32 or f16, statistics in f32.
 * Wu and He 2018, arXiv:1803.08494, equation 7.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function groupNorm(x: Tensor, options: GroupNormOptions): Tensor {
  const who = OPTIONS.name;
  const { numGroups, weight, bias, eps } = OPTIONS.read(options);
  expectDType(who, "x", x, "f32", "f16");
  const [batch, channels] = x.shape;
  if (batch === undefined || channels === undefined)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, channels, ...]`);
  expectGroups(who, numGroups, channels);
  const line = (name: string, t: Tensor | undefined): Tensor | undefined => {
    if (t === undefined) return undefined;
    expectShape(who, name, t, [channels]);
    expectDType(who, name, t, "f32", "f16");
    return t.reshape([channels, ...x.shape.slice(2).map(() => 1)]);
  };
  if (x.size === 0) return x.gpu.zeros(x.shape, x.dtype);
  return x.gpu.scope(() => {
    const [factor, shift] = [line("weight", weight), line("bias", bias)];
    const rows = x.reshape([batch * numGroups, x.size / (batch * numGroups)]);
    const out = rowNorm(rows, { who, center: true, divisor: "inside", eps }).out.reshape(x.shape);
    if (factor && shift) return affine(out, factor, shift);
    return factor ? mul(out, factor) : shift ? add(out, shift) : out;
  });
}

/** `groupNorm` with its weight, initially ones, and its bias, initially zeros. */
export class GroupNorm extends Component<typeof GROUP_NORM> {
  static readonly schema = GROUP_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: GroupNormConfig): ParameterPlan {
    const { dim, numGroups } = GROUP_NORM.read(config);
    expectGroups(GROUP_NORM.name, numGroups, dim);
    return affinePlan(dim, true);
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GroupNormConfig, parameters: Parameters) {
    super(GROUP_NORM, config, GroupNorm.plan(config), parameters);
  }

  /** x [batch, dim, ...places], f32 or f16; returns the same shape and dtype. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { numGroups, eps } = this.config;
    const { weight, bias } = this.weights;
    return groupNorm(x, { weight, bias, numGroups, eps });
  }
}
