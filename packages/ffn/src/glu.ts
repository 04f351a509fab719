import {
  checkConfig,
  e,
  elementwise,
  expectOneOf,
  GLU_GATES,
  input,
  linear,
  type Expr,
  type GluKind,
  type Tensor,
} from "@x/kernels";
import { ACTIVATION_EXPRESSIONS, checkBeta, type Beta } from "./activation.js";

export const GLU_KINDS: readonly GluKind[] = Object.keys(GLU_GATES) as GluKind[];

/** The gate's activation as an expression of "x". */
export const gateExpression = (kind: GluKind): Expr => ACTIVATION_EXPRESSIONS[GLU_GATES[kind]];

const ops = new Map<string, (...args: (Tensor | number)[]) => Tensor>();

/** g(gate) * up in one kernel; swiglu takes beta. */
export function gate(kind: GluKind, gated: Tensor, up: Tensor, beta: Beta = 1): Tensor {
  expectOneOf("glu", "kind", kind, GLU_KINDS);
  const scaled = kind === "swiglu" && beta !== 1;
  const key = scaled ? "swigluBeta" : kind;
  let op = ops.get(key);
  if (!op) {
    const x = input("x");
    const g = scaled ? e.mul(x, e.sigmoid(e.mul(input("beta"), x))) : gateExpression(kind);
    ops.set(
      key,
      (op = elementwise(key, scaled ? ["x", "up", "beta"] : ["x", "up"], () => e.mul(g, input("up")))),
    );
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
  return x.gpu.scope(() => gate(kind, linear(x, wGate, bGate), linear(x, wUp, bUp), beta));
}
