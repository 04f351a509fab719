import {
  add,
  boolean,
  Component,
  div,
  expectDType,
  expectShape,
  integer,
  linear,
  mean,
  mul,
  number,
  ones,
  randomNormal,
  schema,
  silu,
  sqrt,
  sub,
  tensor,
  variance,
  zeros,
  ConfigError,
  type Config,
  type Draw,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { basisKernels, basisLinear, expectFeatures, type BasisKernels } from "./basis.js";
import { kaiming, SHAPE, type KanLayer } from "../layer.js";

const FIELDS = {
  numGrids: integer("Number of Gaussians of a feature.", { min: 2, default: 8 }),
  gridMin: number("Centre of the first Gaussian.", { default: -2 }),
  gridMax: number("Centre of the last Gaussian; above gridMin.", { default: 2 }),
  denominator: number("Width of the Gaussians.", {
    min: Number.MIN_VALUE,
    defaultDoc: "the distance of two centres",
  }),
  layerNorm: boolean("Layer norm of x before the Gaussians.", { default: true }),
  normEps: number("Added to the variance of the norm.", { min: 0, default: 1e-5 }),
};
const OPTIONS = schema("fastKan", FIELDS);
const WEIGHTS = schema("fastKan", {
  splineWeight: tensor("[out, in * numGrids], column i * numGrids + j."),
  normWeight: tensor("[in]; with layerNorm.", { optional: true }),
  normBias: tensor("[in]; with layerNorm.", { optional: true }),
  baseWeight: tensor("[out, in]: the base path silu(x) baseWeight^T.", { optional: true }),
  baseBias: tensor("[out]; with baseWeight.", { optional: true }),
});
const FAST_KAN_LINEAR = schema("FastKanLinear", {
  ...SHAPE,
  ...FIELDS,
  base: boolean("The base path silu(x) W^T + b.", { default: true }),
});
export type FastKanOptions = Config<typeof OPTIONS>;
export type FastKanWeights = Config<typeof WEIGHTS>;
export type FastKanConfig = Config<typeof FAST_KAN_LINEAR>;

/** exp(-(z - c_j)^2) with c_j = low + j step, and its slope. */
const gaussianKernels: BasisKernels = basisKernels("fastKan", {
  expand: () => /* wgsl */ `
fn expand(x: f32, feature: u32, base: u32) {
  for (var j = 0u; j < params.n; j++) {
    let d = x - (params.low + f32(j) * params.step);
    phi[base + j] = exp(-d * d);
  }
}`,
  pull: () => /* wgsl */ `
fn pull(x: f32, feature: u32, base: u32) -> f32 {
  var total = 0.0;
  for (var j = 0u; j < params.n; j++) {
    let d = x - (params.low + f32(j) * params.step);
    total -= dphi[base + j] * 2.0 * d * exp(-d * d);
  }
  return total;
}`,
});

/** The distance of two centres. @throws ConfigError */
function distance(who: string, gridMin: number, gridMax: number, numGrids: number): number {
  if (!(gridMin < gridMax))
    throw new ConfigError(who, `gridMin is ${gridMin}; it must be below gridMax, ${gridMax}`);
  return (gridMax - gridMin) / (numGrids - 1);
}

/** (x - mean) / sqrt(variance + eps) over the last axis, times weight plus bias. */
function normed(x: Tensor, eps: number, weight?: Tensor, bias?: Tensor): Tensor {
  const last = { axes: -1, keepDims: true };
  let z = div(sub(x, mean(x, last)), sqrt(add(variance(x, last), eps)));
  if (weight) z = mul(z, weight);
  return bias ? add(z, bias) : z;
}

/**
 * A KAN layer on Gaussians, FastKAN: with z the layer norm of x,
 * out_o = sum_{i, j} exp(-((z_i - c_j) / denominator)^2) splineWeight[o, i numGrids + j] + (silu(x) baseWeight^T + baseBias)_o,
 * the centres c_j even from gridMin to gridMax, both included. The base path is of x, not of z.
 *
 * x [..., in] f32; result [..., out]. Li 2024, arXiv:2405.06721, equations 4-6.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function fastKan(x: Tensor, weights: FastKanWeights, options: FastKanOptions = {}): Tensor {
  const who = OPTIONS.name;
  const features = expectFeatures(who, x);
  const { splineWeight, normWeight, normBias, baseWeight, baseBias } = WEIGHTS.read(weights);
  const { numGrids, gridMin, gridMax, layerNorm, normEps, ...given } = OPTIONS.read(options);
  const between = distance(who, gridMin, gridMax, numGrids);
  const { denominator = between } = given;
  const { out = 0 } = expectShape(who, "splineWeight", splineWeight, ["out", features * numGrids]);
  const shapes = {
    normWeight: [features],
    normBias: [features],
    baseWeight: [out, features],
    baseBias: [out],
  };
  for (const [name, one] of Object.entries({ splineWeight, normWeight, normBias, baseWeight, baseBias })) {
    if (one === undefined) continue;
    expectDType(who, name, one, "f32");
    if (name in shapes) expectShape(who, name, one, shapes[name as keyof typeof shapes]);
  }
  if (!layerNorm && (normWeight || normBias))
    throw new ConfigError(who, "normWeight or normBias is given, but layerNorm is false");
  if (baseBias && !baseWeight) throw new ConfigError(who, "baseBias is given without baseWeight");
  // All lengths are measured in denominators, so that the Gaussians have width 1.
  const basis = {
    ...{ count: numGrids, kernels: gaussianKernels, variant: {} },
    ...{ low: gridMin / denominator, step: between / denominator },
  };
  return x.gpu.scope(() => {
    const z = layerNorm ? normed(x, normEps, normWeight, normBias) : x;
    const scaled = denominator === 1 ? z : mul(z, 1 / denominator);
    const base = baseWeight && linear(silu(x), baseWeight, baseBias);
    const weight = splineWeight.reshape([out, features, numGrids]);
    return basisLinear(who, scaled, weight, basis, { residual: base });
  });
}

/** A layer's matrix of Gaussians is drawn with FastKAN's deviation. */
const spline: Draw = (gpu, shape, random) => randomNormal(gpu, shape, { ...random, std: 0.1 });

/**
 * `fastKan` with its weights, under the names of FastKAN: spline_linear.weight, normal of deviation 0.1,
 * layernorm.{weight,bias}, and base_linear.{weight,bias}, uniform within 1 / sqrt(in) and zero.
 */
export class FastKanLinear extends Component<typeof FAST_KAN_LINEAR> implements KanLayer {
  static readonly schema = FAST_KAN_LINEAR;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: FastKanConfig): ParameterPlan {
    const read = FAST_KAN_LINEAR.read(config);
    const { inFeatures, outFeatures, numGrids, gridMin, gridMax, layerNorm, base } = read;
    distance(FAST_KAN_LINEAR.name, gridMin, gridMax, numGrids);
    return {
      "spline_linear.weight": { shape: [outFeatures, inFeatures * numGrids], init: spline },
      ...(layerNorm ? { "layernorm.weight": ones(inFeatures), "layernorm.bias": zeros(inFeatures) } : {}),
      ...(base
        ? {
            "base_linear.weight": { shape: [outFeatures, inFeatures], init: kaiming },
            "base_linear.bias": zeros(outFeatures),
          }
        : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: FastKanConfig, parameters: Parameters) {
    super(FAST_KAN_LINEAR, config, FastKanLinear.plan(config), parameters);
  }

  /** x [..., in] f32; result [..., out]. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { numGrids, gridMin, gridMax, denominator, layerNorm, normEps } = this.config;
    const { weights } = this;
    return fastKan(
      x,
      {
        splineWeight: weights["spline_linear.weight"]!,
        normWeight: weights["layernorm.weight"],
        normBias: weights["layernorm.bias"],
        baseWeight: weights["base_linear.weight"],
        baseBias: weights["base_linear.bias"],
      },
      { numGrids, gridMin, gridMax, denominator, layerNorm, normEps },
    );
  }
}
