import {
  ConfigError,
  expectDType,
  expectShape,
  expectTensor,
  linear,
  mul,
  oneOf,
  schema,
  tensor,
  type Config,
  type Tensor,
} from "@x/kernels";
import { activation, ACTIVATION_KINDS, type ActivationKind } from "../activation.js";
import { basisLinear, type Basis } from "./bases/basis.js";
import { SPLINE, splineBasis, type Spline } from "./bases/bspline.js";

/** Activation of the base branch, or none. */
export type BaseActivation = ActivationKind | "none";

export const BASE_ACTIVATIONS: readonly BaseActivation[] = [...ACTIVATION_KINDS, "none"];

/** Fields of a spline layer's options. */
export const KAN_FIELDS = {
  ...SPLINE,
  baseActivation: oneOf('Activation of the base branch; "none": there is none.', BASE_ACTIVATIONS, {
    default: "silu",
  }),
};
const OPTIONS = schema("kan", KAN_FIELDS);
/** The weights of a spline layer. */
export const KAN_WEIGHTS = schema("kan", {
  splineWeight: tensor("c of the splines, [out, in, G + k]."),
  splineScaler: tensor("w_s of the edges, [out, in].", { optional: true }),
  baseWeight: tensor('w_b of the edges, [out, in]; needed unless the base activation is "none".', {
    optional: true,
  }),
  grid: tensor("Knots of each feature, [in, G + 2k + 1].", { defaultDoc: "uniform" }),
});
export type KanOptions = Config<typeof OPTIONS>;
export type KanWeights = Config<typeof KAN_WEIGHTS>;

/** A base branch has a weight [out, in], and the kind "none" has none. */
export function checkBase(
  who: string,
  x: Tensor,
  kind: BaseActivation,
  baseWeight: Tensor | undefined,
  outputs: number,
): void {
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

/** act(x) baseWeight^T of operands that were checked, or undefined without a base branch. */
export function baseBranch(x: Tensor, kind: BaseActivation, baseWeight?: Tensor): Tensor | undefined {
  return kind === "none" || !baseWeight ? undefined : linear(activation(x, kind), baseWeight);
}

/** Check the splines' weights; their bases over x, and the number of outputs. */
export function splineEdges(
  who: string,
  x: Tensor,
  { splineWeight, splineScaler, grid }: KanWeights,
  spline: Spline,
): { readonly basis: Basis; readonly outputs: number } {
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
  const who = OPTIONS.name;
  expectTensor(who, "x", x);
  const given = KAN_WEIGHTS.read(weights);
  const { baseActivation, ...spline } = OPTIONS.read(options);
  const { basis, outputs } = splineEdges(who, x, given, spline);
  checkBase(who, x, baseActivation, given.baseWeight, outputs);
  return x.gpu.scope(() => {
    const residual = baseBranch(x, baseActivation, given.baseWeight);
    return basisLinear(who, x, scaledSplines(given), basis, { residual });
  });
}
