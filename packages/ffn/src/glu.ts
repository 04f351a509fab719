import {
  e,
  elementwise,
  GLU_GATES,
  input,
  isTracked,
  linear,
  oneOf,
  schema,
  tensor,
  type Config,
  type Expr,
  type GluKind,
  type Tensor,
} from "@x/kernels";
import { ACTIVATION_EXPRESSIONS, checkBeta, type Beta } from "./activation.js";
import { FEW_ROWS, gluFew } from "./glu_few.js";
import { BETA, expectOperands, widthOf } from "./operands.js";

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
  const scaled = kind === "swiglu" && beta !== 1;
  const key = scaled ? "swigluBeta" : kind;
  let op = ops.get(key);
  if (!op) {
    const unit = scaled ? e.mul(ACTIVATION_EXPRESSIONS.swish, input("up")) : UNITS[kind];
    ops.set(key, (op = elementwise(key, scaled ? ["x", "up", "beta"] : ["x", "up"], () => unit)));
  }
  return scaled ? op(gated, up, beta) : op(gated, up);
}

/** Fields of the weights of a gated unit, for what else holds one. */
export const GLU_FIELDS = {
  wGate: tensor("Matrix of the factor that is activated, [hidden, dim]."),
  wUp: tensor("Matrix of the other factor, [hidden, dim]."),
  bGate: tensor("Bias of the gate, [hidden].", { optional: true }),
  bUp: tensor("Bias of the other factor, [hidden].", { optional: true }),
  beta: BETA,
};
const WEIGHTS = schema("glu", GLU_FIELDS);
const OPTIONS = schema("glu", {
  kind: oneOf("The gate's activation.", GLU_KINDS, { default: "swiglu" }),
});
export type GluWeights = Config<typeof WEIGHTS>;
export type GluOptions = Config<typeof OPTIONS>;

/** Whether one kernel may compute the unit: few rows of shapes that were checked, and no gradient. */
function fitsFew(x: Tensor, { wGate, wUp, bGate, bUp }: GluWeights): boolean {
  const width = wGate.shape[1] ?? 0;
  return (
    x.dtype === "f32" &&
    wGate.dtype === wUp.dtype &&
    ![wGate, wUp].some((t) => t.stored) &&
    width > 0 &&
    x.size > 0 &&
    x.size <= FEW_ROWS * width &&
    !isTracked([x, wGate, wUp, bGate, bUp])
  );
}

/** Checks the operands of a gated unit; returns the number of hidden features. */
export function checkGlu(
  caller: string,
  x: Tensor,
  { wGate, wUp, bGate, bUp, beta }: GluWeights,
  kind: GluKind,
): number {
  const dim = widthOf(caller, x, "wGate", wGate);
  const { hidden = 0 } = expectOperands(caller, {
    wGate: [wGate, ["hidden", dim]],
    wUp: [wUp, ["hidden", dim]],
    bGate: [bGate, ["hidden"]],
    bUp: [bUp, ["hidden"]],
  });
  checkBeta(caller, kind, beta, hidden);
  return hidden;
}

/** g(x wGate^T + bGate) * (x wUp^T + bUp) of operands that were checked. */
export function gluUnit(x: Tensor, weights: GluWeights, kind: GluKind): Tensor {
  const { wGate, wUp, bGate, bUp, beta = 1 } = weights;
  // Many rows: two products and a pass. One kernel with both was 1.1 to 1.2 times slower (256 and 512 rows): it holds
  // twice the accumulators, so its tiles are half as high and load the weights twice as often.
  return beta === 1 && fitsFew(x, weights)
    ? gluFew(x, weights, UNITS[kind])
    : gate(kind, linear(x, wGate, bGate), linear(x, wUp, bUp), beta);
}

/**
 * Gated linear unit: out = g(x wGate^T + bGate) * (x wUp^T + bUp).
 *
 * x [..., dim], wGate and wUp [hidden, dim], biases [hidden]; f32 or f16. Dauphin et al. 2017, arXiv:1612.08083;
 * Shazeer 2020, arXiv:2002.05202, equation 5.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function glu(x: Tensor, weights: GluWeights, options: GluOptions = {}): Tensor {
  const who = OPTIONS.name;
  const given = WEIGHTS.read(weights);
  const { kind } = OPTIONS.read(options);
  checkGlu(who, x, given, kind);
  return x.gpu.scope(() => gluUnit(x, given, kind));
}
