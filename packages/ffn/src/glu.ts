import {
  elementwise,
  expectInteger,
  expectTensor,
  GATED_UNIT_FIELDS,
  gatedUnit,
  GLU_GATES,
  isTracked,
  linear,
  normalizeAxis,
  oneOf,
  schema,
  ShapeError,
  showShape,
  slice,
  tensor,
  type Config,
  type Expr,
  type GluKind,
  type Tensor,
  isAdapted,
} from "@x/kernels";
import { checkBeta, type Beta } from "./activation.js";
import { FEW_ROWS, gluFew } from "./glu_few.js";
import { BETA, expectOperands, widthOf } from "./operands.js";

export const GLU_KINDS: readonly GluKind[] = Object.keys(GLU_GATES) as GluKind[];

const ops = new Map<Expr, (...args: (Tensor | number)[]) => Tensor>();

/** The numbers of a gated unit that are not trained. */
export interface GateNumbers {
  readonly limit?: number | undefined;
  readonly upOffset?: number | undefined;
}

/** The gated unit of two products in one kernel; swiglu takes beta. */
export function gate(
  kind: GluKind,
  gated: Tensor,
  up: Tensor,
  beta: Beta = 1,
  numbers: GateNumbers = {},
): Tensor {
  const scaled = beta !== 1;
  const unit = gatedUnit("glu", kind, { ...numbers, beta: scaled ? "input" : 1 });
  let op = ops.get(unit);
  if (!op) ops.set(unit, (op = elementwise(kind, scaled ? ["x", "up", "beta"] : ["x", "up"], () => unit)));
  return scaled ? op(gated, up, beta) : op(gated, up);
}

/**
 * Splits a fused matrix or bias of a gated unit, whose even rows are the gate's and odd rows the other factor's, as
 * gpt-oss stores them.
 *
 * w [..., 2 hidden, columns], or [..., 2 hidden] with axis -1; axis is that of the 2 hidden rows, -2 by default. Result:
 * two tensors with hidden rows.
 *
 * @throws ShapeError, ConfigError
 */
export function splitGateUp(w: Tensor, axis = -2): { readonly gate: Tensor; readonly up: Tensor } {
  const who = "splitGateUp";
  expectTensor(who, "w", w);
  expectInteger(who, "axis", axis);
  const at = normalizeAxis(who, axis, w.rank);
  const rows = w.shape[at]!;
  if (rows % 2 !== 0) throw new ShapeError(who, `w has shape ${showShape(w.shape)}; axis ${at} must be even`);
  const [before, after] = [w.shape.slice(0, at), w.shape.slice(at + 1)];
  const pairs = w.reshape([...before, rows / 2, 2, ...after]);
  const part = (i: number): Tensor =>
    slice(pairs, { axis: at + 1, start: i, end: i + 1 }).reshape([...before, rows / 2, ...after]);
  return w.gpu.scope(() => ({ gate: part(0), up: part(1) }));
}

/** Fields of the weights of a gated unit, for what else holds one. */
export const GLU_FIELDS = {
  wGate: tensor("Matrix of the factor that is activated, [hidden, dim]."),
  wUp: tensor("Matrix of the other factor, [hidden, dim]."),
  bGate: tensor("Bias of the gate, [hidden].", { optional: true }),
  bUp: tensor("Bias of the other factor, [hidden].", { optional: true }),
  beta: BETA,
};
/** Keys of a gated unit that are not trained. */
export const GATE_FIELDS = { limit: GATED_UNIT_FIELDS.limit, upOffset: GATED_UNIT_FIELDS.upOffset };
const WEIGHTS = schema("glu", GLU_FIELDS);
const OPTIONS = schema("glu", {
  kind: oneOf("The gate's activation.", GLU_KINDS, { default: "swiglu" }),
  ...GATE_FIELDS,
});
export type GluWeights = Config<typeof WEIGHTS>;
export type GluOptions = Config<typeof OPTIONS>;

/** Whether one kernel may compute the unit: few rows of shapes that were checked, and no gradient. */
function fitsFew(x: Tensor, { wGate, wUp, bGate, bUp }: GluWeights): boolean {
  const width = wGate.shape[1] ?? 0;
  return (
    x.dtype === "f32" &&
    wGate.dtype === wUp.dtype &&
    ![wGate, wUp].some((t) => t.stored || isAdapted(t)) &&
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

/** The gated unit of operands that were checked. */
export function gluUnit(x: Tensor, weights: GluWeights, kind: GluKind, numbers: GateNumbers = {}): Tensor {
  const { wGate, wUp, bGate, bUp, beta = 1 } = weights;
  // Many rows: two products and a pass. One kernel with both was 1.1 to 1.2 times slower (256 and 512 rows): it holds
  // twice the accumulators, so its tiles are half as high and load the weights twice as often.
  return typeof beta === "number" && fitsFew(x, weights)
    ? gluFew(x, weights, gatedUnit("glu", kind, { ...numbers, beta }))
    : gate(kind, linear(x, wGate, bGate), linear(x, wUp, bUp), beta, numbers);
}

/**
 * Gated linear unit: out = g(x wGate^T + bGate) * (x wUp^T + bUp); `limit` and `upOffset` make it gpt-oss's clamped
 * SwiGLU, g(min(gate, limit)) * (clamp(up, -limit, limit) + upOffset).
 *
 * x [..., dim], wGate and wUp [hidden, dim], biases [hidden]; f32 or f16. Dauphin et al. 2017, arXiv:1612.08083;
 * Shazeer 2020, arXiv:2002.05202, equation 5; gpt-oss, arXiv:2508.10925.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function glu(x: Tensor, weights: GluWeights, options: GluOptions = {}): Tensor {
  const who = OPTIONS.name;
  const given = WEIGHTS.read(weights);
  const { kind, ...numbers } = OPTIONS.read(options);
  checkGlu(who, x, given, kind);
  return x.gpu.scope(() => gluUnit(x, given, kind, numbers));
}
