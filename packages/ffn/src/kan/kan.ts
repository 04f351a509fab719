import {
  checkConfig,
  ConfigError,
  expectDType,
  expectOneOf,
  expectShape,
  linear,
  mul,
  type Tensor,
} from "@x/kernels";
import { activation, ACTIVATION_KINDS, type ActivationKind } from "../activation.js";
import { basisLinear, type Basis } from "./bases/basis.js";
import { SPLINE_KEYS, splineBasis, splineOf, type SplineOptions } from "./bases/bspline.js";

/** Activation of the base branch, or none. */
export type BaseActivation = ActivationKind | "none";

export interface KanWeights {
  /** c of the splines: [out, in, G + k] */
  readonly splineWeight: Tensor;
  /** w_s of the edges: [out, in] */
  readonly splineScaler?: Tensor | undefined;
  /** w_b of the edges: [out, in]; there must be one unless the base activation is "none". */
  readonly baseWeight?: Tensor | undefined;
  /** Knots [in, G + 2k + 1]; without it the uniform ones of the options. */
  readonly grid?: Tensor | undefined;
}

export interface KanOptions extends SplineOptions {
  /** Default "silu". */
  readonly baseActivation?: BaseActivation;
}

/** A base branch has a weight [out, in], and the kind "none" has none. */
export function checkBase(
  who: string,
  x: Tensor,
  kind: BaseActivation,
  baseWeight: Tensor | undefined,
  outputs: number,
): void {
  expectOneOf(who, "baseActivation", kind, [...ACTIVATION_KINDS, "none"]);
  if (kind === "none") {
    if (baseWeight) throw new ConfigError(who, 'baseWeight is given, but baseActivation is "none"');
    return;
  }
  if (!baseWeight)
    throw new ConfigError(
      who,
      `baseWeight is missing; baseActivation "${kind}" needs it ("none" has no base branch)`,
    );
  expectDType(who, "baseWeight", baseWeight, "f32");
  expectShape(who, "baseWeight", baseWeight, [outputs, x.shape.at(-1)!]);
}

/** act(x) baseWeight^T, or undefined without a base branch. */
export function baseBranch(
  who: string,
  x: Tensor,
  kind: BaseActivation,
  baseWeight: Tensor | undefined,
  outputs: number,
): Tensor | undefined {
  checkBase(who, x, kind, baseWeight, outputs);
  return kind === "none" || !baseWeight ? undefined : linear(activation(x, kind), baseWeight);
}

/** Check the splines' weights; their bases over x, and the number of outputs. */
export function splineEdges(
  who: string,
  x: Tensor,
  { splineWeight, splineScaler, grid }: KanWeights,
  options: SplineOptions,
): { readonly basis: Basis; readonly outputs: number } {
  const spline = splineOf(who, options);
  const basis = splineBasis(who, x, spline, grid);
  const features = x.shape.at(-1)!;
  expectDType(who, "splineWeight", splineWeight, "f32");
  const { out = 0 } = expectShape(who, "splineWeight", splineWeight, ["out", features, basis.count]);
  if (splineScaler) {
    expectDType(who, "splineScaler", splineScaler, "f32");
    expectShape(who, "splineScaler", splineScaler, [out, features]);
  }
  return { basis, outputs: out };
}

/** w_s c of every edge: [out, in, G + k]. */
export const scaledSplines = ({ splineWeight, splineScaler }: KanWeights): Tensor =>
  splineScaler ? mul(splineWeight, splineScaler.reshape([...splineScaler.shape, 1])) : splineWeight;

/**
 * A Kolmogorov-Arnold layer: every edge has a function of its own, out_o = sum_i phi_{o,i}(x_i) with
 * phi(x) = w_b act(x) + w_s sum_g c_g B_g(x). The functions are linear in their bases, so the layer is two matrix
 * products; nothing of size [tokens, out, in] is made.
 *
 * x [..., in] f32; result [..., out]. Liu et al. 2024, arXiv:2404.19756, equations 2.10 to 2.12.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kan(x: Tensor, weights: KanWeights, options: KanOptions = {}): Tensor {
  const who = "kan";
  checkConfig(who, options, [...SPLINE_KEYS, "baseActivation"]);
  const { basis, outputs } = splineEdges(who, x, weights, options);
  return x.gpu.scope(() => {
    const base = baseBranch(who, x, options.baseActivation ?? "silu", weights.baseWeight, outputs);
    return basisLinear(who, x, scaledSplines(weights), basis, { residual: base });
  });
}
