import {
  checkConfig,
  e,
  elementwise,
  expectOneOf,
  GLU_GATES,
  input,
  isTracked,
  linear,
  type Expr,
  type GluKind,
  type Tensor,
} from "@x/kernels";
import { ACTIVATION_EXPRESSIONS, checkBeta, type Beta } from "./activation.js";
import { FEW_ROWS, gluFew } from "./glu_few.js";

export const GLU_KINDS: readonly GluKind[] = Object.keys(GLU_GATES) as GluKind[];

/** The gate's activation as an expression of "x". */
const gateExpression = (kind: GluKind): Expr => ACTIVATION_EXPRESSIONS[GLU_GATES[kind]];

/** The unit of each kind, g(x) * up, with beta 1. */
const UNITS = Object.fromEntries(
  GLU_KINDS.map((kind) => [kind, e.mul(gateExpression(kind), input("up"))]),
) as Readonly<Record<GluKind, Expr>>;

const ops = new Map<string, (...args: (Tensor | number)[]) => Tensor>();

/** g(gate) * up in one kernel; swiglu takes beta. */
export function gate(kind: GluKind, gated: Tensor, up: Tensor, beta: Beta = 1): Tensor {
  expectOneOf("glu", "kind", kind, GLU_KINDS);
  const scaled = kind === "swiglu" && beta !== 1;
  const key = scaled ? "swigluBeta" : kind;
  let op = ops.get(key);
  if (!op) {
    const unit = scaled ? e.mul(ACTIVATION_EXPRESSIONS.swish, input("up")) : UNITS[kind];
    ops.set(key, (op = elementwise(key, scaled ? ["x", "up", "beta"] : ["x", "up"], () => unit)));
  }
  return scaled ? op(gated, up, beta) : op(gated, up);
}

export interface GluWeights {
  /** [hidden, dim]: the factor that is activated. */
  readonly wGate: Tensor;
  /** [hidden, dim] */
  readonly wUp: Tensor;
  readonly bGate?: Tensor | undefined;
  readonly bUp?: Tensor | undefined;
  /** swiglu only. */
  readonly beta?: Beta | undefined;
}

/** May one kernel do it? Shapes that do not fit are left to the products, which say so. */
function fitsFew(x: Tensor, { wGate, wUp, bGate, bUp }: GluWeights): boolean {
  const [out = 0, width = 0] = wGate.shape;
  const matrices = [wGate, wUp].every((w) => w.rank === 2 && w.shape[0] === out && w.shape[1] === width);
  const biases = [bGate, bUp].every((b) => b === undefined || (b.rank === 1 && b.size === out));
  return (
    matrices &&
    biases &&
    x.dtype === "f32" &&
    wGate.dtype === wUp.dtype &&
    (wGate.dtype === "f32" || wGate.dtype === "f16") &&
    width > 0 &&
    x.shape.at(-1) === width &&
    x.size > 0 &&
    x.size <= FEW_ROWS * width &&
    !isTracked([x, wGate, wUp, bGate, bUp])
  );
}

/**
 * Gated linear unit: out = g(x wGate^T + bGate) * (x wUp^T + bUp).
 *
 * x [..., dim]. Dauphin et al. 2017, arXiv:1612.08083; Shazeer 2020, arXiv:2002.05202, equation 5.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function glu(x: Tensor, weights: GluWeights, options: { readonly kind?: GluKind } = {}): Tensor {
  checkConfig("glu", options, ["kind"]);
  const kind = options.kind ?? "swiglu";
  expectOneOf("glu", "kind", kind, GLU_KINDS);
  const { wGate, wUp, bGate, bUp } = weights;
  const beta = checkBeta("glu", kind, weights.beta, wGate.shape[0] ?? 1);
  // Many rows: two products and a pass. One kernel with both was 1.1 to 1.2 times slower (256 and 512 rows): it holds
  // twice the accumulators, so its tiles are half as high and load the weights twice as often.
  return x.gpu.scope(() =>
    beta === 1 && fitsFew(x, weights)
      ? gluFew(x, weights, UNITS[kind])
      : gate(kind, linear(x, wGate, bGate), linear(x, wUp, bUp), beta),
  );
}
