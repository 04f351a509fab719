import {
  abs,
  add,
  applyOp,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectShape,
  expectTensor,
  grid1d,
  mean,
  mul,
  number,
  schema,
  sum,
  sumMiddle,
  type Config,
  type Resolved,
  type Tensor,
} from "@x/kernels";
import { activation } from "../activation.js";
import { checkBase, KAN_FIELDS, KAN_WEIGHTS, scaledSplines, splineEdges, type KanWeights } from "./kan.js";
import { basisValues } from "./bases/basis.js";
import {
  edgeMagnitude,
  edgeMagnitudeBackwardInput,
  edgeMagnitudeBackwardWeights,
} from "./regularization.wgsl.js";

/** Fields of the regularisation's weights. */
export const REGULARIZATION = {
  activationWeight: number("Factor of l1.", { default: 1 }),
  entropyWeight: number("Factor of the entropy.", { default: 1 }),
};
const OF_WEIGHTS = schema("kanWeightRegularization", REGULARIZATION);
const OF_FUNCTIONS = schema("kanActivationRegularization", { ...KAN_FIELDS, ...REGULARIZATION });
export type KanRegularizationWeights = Config<typeof OF_WEIGHTS>;
export type KanActivationRegularizationOptions = Config<typeof OF_FUNCTIONS>;

export interface KanRegularization {
  /** activationWeight l1 + entropyWeight entropy: [1] */
  readonly loss: Tensor;
  /** [1] */
  readonly l1: Tensor;
  /** [1] */
  readonly entropy: Tensor;
}

/** A number whose logarithm is finite: below 1.17e-38 many adapters take a number for 0. */
const LEAST = 1.2e-38;

/** -p ln p with 0 ln 0 = 0, and no slope there. */
const information = elementwise("kanEntropy", ["n", "total"], (n, total) => {
  const p = e.div(n, e.max(total, 1e-30));
  return e.select(e.gt(p, 0), e.neg(e.mul(p, e.log(e.max(p, LEAST)))), 0);
});

function regularize(
  n: Tensor,
  { activationWeight, entropyWeight }: Resolved<typeof OF_WEIGHTS>,
): KanRegularization {
  const l1 = sum(n).reshape([1]);
  const entropy = sum(information(n, l1)).reshape([1]);
  return { l1, entropy, loss: add(mul(l1, activationWeight), mul(entropy, entropyWeight)) };
}

/**
 * What makes a KAN sparse, from its weights: n_{o,i} the mean of |splineWeight[o, i, g]| over g,
 * loss = activationWeight l1 + entropyWeight entropy with l1 = sum n, p = n / l1, entropy = -sum p ln p.
 *
 * splineWeight [out, in, G + k] f32. The form of Blealtan/efficient-kan.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanWeightRegularization(
  splineWeight: Tensor,
  options: KanRegularizationWeights = {},
): KanRegularization {
  const who = OF_WEIGHTS.name;
  expectDType(who, "splineWeight", splineWeight, "f32");
  expectShape(who, "splineWeight", splineWeight, [null, null, null]);
  const factors = OF_WEIGHTS.read(options);
  return splineWeight.gpu.scope(() => regularize(mean(abs(splineWeight), { axes: -1 }), factors));
}

/** Threads that are enough to fill a device. */
const FULL = 4096;

/** [out, in]: mean over the tokens of |w_base a + sum_g w phi|; nothing of size [tokens, out, in] is made. */
function edgeMagnitudes(phi: Tensor, w: Tensor, a: Tensor | undefined, wBase: Tensor | undefined): Tensor {
  const { gpu } = phi;
  const [outputs = 0, features = 0, n = 0] = w.shape;
  const tokens = phi.size / (features * n);
  const edges = outputs * features;
  const chunks = Math.max(1, Math.min(Math.ceil(tokens / 64), Math.ceil(FULL / edges)));
  const base = a !== undefined && wBase !== undefined;
  const bindings = { phi, w, a, w_base: wBase };
  const call = {
    variant: { base },
    params: { tokens, features, outputs, n, chunk: Math.ceil(tokens / chunks), chunks, share: 1 / tokens },
  };
  const perEdge = grid1d(Math.ceil((edges * chunks) / 64));
  return applyOp({
    name: "kanEdgeMagnitude",
    inputs: [phi, w, a, wBase],
    forward: () => {
      const out = gpu.empty([chunks, edges]);
      gpu.run(edgeMagnitude, { ...call, bindings: { ...bindings, out }, workgroups: perEdge });
      return { outputs: [sumMiddle(out, 1, chunks, edges).reshape([outputs, features])] };
    },
    backward: ({ grads }) => {
      const grad = grads[0]!;
      const dphi = gpu.empty(phi.shape);
      const da = a && gpu.empty(a.shape);
      gpu.run(edgeMagnitudeBackwardInput, {
        ...call,
        bindings: { ...bindings, grad, dphi, da },
        workgroups: grid1d(Math.ceil((tokens * features) / 64)),
      });
      const dw = gpu.empty([chunks, w.size]);
      const dwBase = wBase && gpu.empty([chunks, edges]);
      gpu.run(edgeMagnitudeBackwardWeights, {
        ...call,
        bindings: { ...bindings, grad, dw, dw_base: dwBase },
        workgroups: perEdge,
      });
      return [
        dphi,
        sumMiddle(dw, 1, chunks, w.size).reshape(w.shape),
        da,
        dwBase && sumMiddle(dwBase, 1, chunks, edges).reshape([outputs, features]),
      ];
    },
  })[0]!;
}

/**
 * What makes a KAN sparse, from its functions: n_{o,i} the mean over all samples of |phi_{o,i}(x_i)|, then as
 * `kanWeightRegularization`.
 *
 * x [..., in] f32; weights and options as `kan`. Liu et al. 2024, arXiv:2404.19756, equations 2.17 to 2.20.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanActivationRegularization(
  x: Tensor,
  weights: KanWeights,
  options: KanActivationRegularizationOptions = {},
): KanRegularization {
  const who = OF_FUNCTIONS.name;
  expectTensor(who, "x", x);
  const given = KAN_WEIGHTS.read(weights, who);
  const { baseActivation, activationWeight, entropyWeight, ...spline } = OF_FUNCTIONS.read(options);
  const { baseWeight } = given;
  const { basis, outputs } = splineEdges(who, x, given, spline);
  if (x.size === 0) throw new ConfigError(who, "x has no samples; it must have at least one");
  checkBase(who, x, baseActivation, baseWeight, outputs);
  return x.gpu.scope(() => {
    const phi = basisValues(who, x, basis);
    const a = baseActivation === "none" ? undefined : activation(x, baseActivation);
    const n = edgeMagnitudes(phi, scaledSplines(given), a, baseWeight);
    return regularize(n, { activationWeight, entropyWeight });
  });
}
