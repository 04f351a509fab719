import {
  add,
  checkConfig,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectInteger,
  expectNumber,
  expectShape,
  mul,
  ShapeError,
  showShape,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { rowNorm } from "./row_norm.js";

export interface GroupNormOptions {
  /** Groups that the channels are cut into: 1 is a LayerNorm over all channels and places, `channels` an InstanceNorm. */
  readonly numGroups: number;
  readonly weight?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
  /** Default 1e-5. */
  readonly eps?: number;
}

const affine = elementwise("groupNormAffine", ["x", "weight", "bias"], (x, weight, bias) =>
  e.add(e.mul(x, weight), bias),
);

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
  const who = "groupNorm";
  checkConfig(who, options, ["numGroups", "weight", "bias", "eps"]);
  const { numGroups, weight, bias, eps = 1e-5 } = options;
  expectDType(who, "x", x, "f32", "f16");
  const [batch, channels] = x.shape;
  if (batch === undefined || channels === undefined)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, channels, ...]`);
  expectInteger(who, "numGroups", numGroups, 1);
  if (channels % numGroups !== 0)
    throw new ConfigError(who, `numGroups is ${numGroups}; it must divide the ${channels} channels`);
  expectNumber(who, "eps", eps, 0);
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

/** GroupNorm with its weight and bias. */
export class GroupNorm implements Module {
  readonly weight: Tensor | undefined;
  readonly bias: Tensor | undefined;
  readonly numGroups: number;
  readonly eps: number;

  /** From `weight` and `bias`, each optional. @throws ConfigError */
  constructor(
    tensors: { readonly weight?: Tensor | undefined; readonly bias?: Tensor | undefined },
    config: { readonly numGroups: number; readonly eps?: number },
  ) {
    const who = "GroupNorm";
    checkConfig(who, tensors, ["weight", "bias"]);
    checkConfig(who, config, ["numGroups", "eps"]);
    const { numGroups, eps = 1e-5 } = config;
    expectInteger(who, "numGroups", numGroups, 1);
    expectNumber(who, "eps", eps, 0);
    this.weight = tensors.weight;
    this.bias = tensors.bias;
    this.numGroups = numGroups;
    this.eps = eps;
  }

  /** Weight of ones, bias of zeros. @throws ConfigError */
  static init(gpu: Gpu, config: { dim: number; numGroups: number; eps?: number }): GroupNorm {
    checkConfig("GroupNorm", config, ["dim", "numGroups", "eps"]);
    const { dim, ...rest } = config;
    expectInteger("GroupNorm", "dim", dim, 1);
    expectInteger("GroupNorm", "numGroups", rest.numGroups, 1);
    if (dim % rest.numGroups !== 0)
      throw new ConfigError(
        "GroupNorm",
        `numGroups is ${rest.numGroups}; it must divide the ${dim} channels`,
      );
    return new GroupNorm({ weight: gpu.keep(gpu.full([dim], 1)), bias: gpu.keep(gpu.zeros([dim])) }, rest);
  }

  /** From `weight` and, if it is there, `bias`. @throws ConfigError */
  static fromParameters(
    config: { numGroups: number; eps?: number },
    parameters: Readonly<Record<string, Tensor>>,
  ): GroupNorm {
    const weight = takeParameter("GroupNorm", parameters, "weight");
    return new GroupNorm({ weight, bias: parameters["bias"] }, config);
  }

  /** x [batch, channels, ...places]. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { weight, bias, numGroups, eps } = this;
    return groupNorm(x, { weight, bias, numGroups, eps });
  }

  parameters(): Record<string, Tensor> {
    return { ...(this.weight ? { weight: this.weight } : {}), ...(this.bias ? { bias: this.bias } : {}) };
  }
}
