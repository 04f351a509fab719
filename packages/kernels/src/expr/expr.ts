import { ConfigError } from "../base/errors.js";
import { show } from "../base/show.js";

/**
 * Elementwise expressions: a small language whose values are float32 (or lanes of it). From one definition come
 * the WGSL and, by symbolic reverse-mode differentiation (`derive.ts`), the gradient's WGSL.
 */

type Unary =
  | "neg"
  | "exp"
  | "log"
  | "sqrt"
  | "rsqrt"
  | "abs"
  | "sign"
  | "tanh"
  | "sigmoid"
  | "softplus"
  | "erf"
  | "sin"
  | "cos"
  | "floor";
type Binary = "add" | "sub" | "mul" | "damp" | "div" | "min" | "max" | "lt" | "le" | "eq" | "pow";
type ExprOp = Unary | Binary | "select";

/** An expression: a constant, an input by name, or an operation. */
export type Expr =
  | { readonly op: "const"; readonly value: number; readonly args: readonly [] }
  | { readonly op: "input"; readonly name: string; readonly args: readonly [] }
  | { readonly op: ExprOp; readonly args: readonly Expr[] };

/** An operand: an expression or a number that stands for a constant. */
export type Operand = Expr | number;

/**
 * What expressions inherit: JavaScript's operators would turn them into text or NaN without a word.
 */
const shared: object = Object.defineProperty({}, Symbol.toPrimitive, {
  value(this: Expr): never {
    throw new ConfigError(
      "elementwise",
      `an expression (${this.op}) was used with an operator or function of JavaScript; write e.add(x, 1) for x + 1, ` +
        "e.mul(x, 2) for x * 2, e.exp(x) for Math.exp(x), e.select(e.gt(x, 0), a, b) for x > 0 ? a : b",
    );
  },
});

const make = <T extends object>(fields: T): T => Object.assign(Object.create(shared) as T, fields);

function lift(x: Operand): Expr {
  if (typeof x === "number") return make({ op: "const", value: x, args: [] });
  if (!isExpr(x))
    throw new ConfigError(
      "elementwise",
      `an operand is ${show(x)}; it must be an expression (an input, or what a function of e returns) or a number`,
    );
  return x;
}

/** True for what the functions of `e` return. */
export function isExpr(x: unknown): x is Expr {
  return typeof x === "object" && x !== null && "op" in x && "args" in x;
}

export function input(name: string): Expr {
  return make({ op: "input", name, args: [] });
}

function isConst(x: Expr, value?: number): x is Extract<Expr, { op: "const" }> {
  return x.op === "const" && (value === undefined || (x as { value: number }).value === value);
}

function node(op: ExprOp, ...args: Operand[]): Expr {
  return make({ op, args: args.map(lift) });
}

function add(a: Operand, b: Operand): Expr {
  const [x, y] = [lift(a), lift(b)];
  if (isConst(x) && isConst(y)) return lift(x.value + y.value);
  if (isConst(x, 0)) return y;
  if (isConst(y, 0)) return x;
  return node("add", x, y);
}

function sub(a: Operand, b: Operand): Expr {
  const [x, y] = [lift(a), lift(b)];
  if (isConst(x) && isConst(y)) return lift(x.value - y.value);
  if (isConst(y, 0)) return x;
  if (isConst(x, 0)) return neg(y);
  return node("sub", x, y);
}

function mul(a: Operand, b: Operand): Expr {
  const [x, y] = [lift(a), lift(b)];
  if (isConst(x) && isConst(y)) return lift(x.value * y.value);
  if (isConst(x, 0) || isConst(y, 0)) return lift(0);
  if (isConst(x, 1)) return y;
  if (isConst(y, 1)) return x;
  return node("mul", x, y);
}

function damp(a: Operand, b: Operand): Expr {
  const [x, y] = [lift(a), lift(b)];
  return isConst(x) || isConst(y) ? mul(x, y) : node("damp", x, y);
}

function div(a: Operand, b: Operand): Expr {
  const [x, y] = [lift(a), lift(b)];
  if (isConst(x) && isConst(y)) return lift(x.value / y.value);
  if (isConst(x, 0)) return lift(0);
  if (isConst(y, 1)) return x;
  return node("div", x, y);
}

function neg(a: Operand): Expr {
  const x = lift(a);
  if (isConst(x)) return lift(-x.value);
  if (x.op === "neg") return x.args[0] as Expr;
  return node("neg", x);
}

function pow(a: Operand, exponent: number): Expr {
  const x = lift(a);
  switch (exponent) {
    case 0:
      return lift(1);
    case 1:
      return x;
    case 2:
      return mul(x, x);
    case 3:
      return mul(mul(x, x), x);
    case -1:
      return div(1, x);
    case 0.5:
      return node("sqrt", x);
    default:
      return node("pow", x, exponent);
  }
}

const one =
  (op: Unary) =>
  (x: Operand): Expr =>
    node(op, x);
const two =
  (op: Binary) =>
  (a: Operand, b: Operand): Expr =>
    node(op, a, b);

const sigmoid = one("sigmoid");
const tanh = one("tanh");
const softplus = one("softplus");
const erf = one("erf");

/** The vocabulary of elementwise expressions. */
export const e: {
  readonly const: (value: number) => Expr;
  readonly add: (a: Operand, b: Operand) => Expr;
  readonly sub: (a: Operand, b: Operand) => Expr;
  readonly mul: (a: Operand, b: Operand) => Expr;
  readonly div: (a: Operand, b: Operand) => Expr;
  readonly neg: (a: Operand) => Expr;
  readonly exp: (x: Operand) => Expr;
  readonly log: (x: Operand) => Expr;
  readonly sqrt: (x: Operand) => Expr;
  readonly rsqrt: (x: Operand) => Expr;
  /** x^c for a constant c; x must be positive unless c is -1, 0, 1, 2 or 3. */
  readonly pow: (x: Operand, exponent: number) => Expr;
  readonly abs: (x: Operand) => Expr;
  /** -1, 0 or 1; NaN for NaN. */
  readonly sign: (x: Operand) => Expr;
  /** The smaller one, NaN where either is; at a tie the gradient goes to b. */
  readonly min: (a: Operand, b: Operand) => Expr;
  /** The larger one, NaN where either is; at a tie the gradient goes to b. */
  readonly max: (a: Operand, b: Operand) => Expr;
  readonly tanh: (x: Operand) => Expr;
  readonly sigmoid: (x: Operand) => Expr;
  /** log(1 + e^x), without overflow. */
  readonly softplus: (x: Operand) => Expr;
  /** a b, where a factor of exactly 0 wins over one that is infinite: the limit of what decays faster than it grows. */
  readonly damp: (a: Operand, b: Operand) => Expr;
  /** x sigmoid(x). */
  readonly silu: (x: Operand) => Expr;
  /** x Phi(x), with the error function. */
  readonly gelu: (x: Operand) => Expr;
  /** 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). */
  readonly geluTanh: (x: Operand) => Expr;
  /** x tanh(softplus(x)). */
  readonly mish: (x: Operand) => Expr;
  /** max(x, 0), NaN for NaN. */
  readonly relu: (x: Operand) => Expr;
  readonly erf: (x: Operand) => Expr;
  readonly sin: (x: Operand) => Expr;
  readonly cos: (x: Operand) => Expr;
  readonly floor: (x: Operand) => Expr;
  /** a where the condition is not zero, else b. */
  readonly select: (condition: Operand, a: Operand, b: Operand) => Expr;
  /** Comparisons give 1 or 0. */
  readonly lt: (a: Operand, b: Operand) => Expr;
  readonly le: (a: Operand, b: Operand) => Expr;
  readonly gt: (a: Operand, b: Operand) => Expr;
  readonly ge: (a: Operand, b: Operand) => Expr;
  readonly eq: (a: Operand, b: Operand) => Expr;
  /** 1 where x > 0, else 0. */
  readonly step: (x: Operand) => Expr;
} = {
  const: lift,
  add,
  sub,
  mul,
  div,
  neg,
  exp: one("exp"),
  log: one("log"),
  sqrt: one("sqrt"),
  rsqrt: one("rsqrt"),
  pow,
  abs: one("abs"),
  sign: one("sign"),
  min: two("min"),
  max: two("max"),
  tanh,
  sigmoid,
  softplus,
  damp,
  silu: (x) => damp(x, sigmoid(x)),
  gelu: (x) => damp(mul(0.5, x), add(1, erf(mul(x, Math.SQRT1_2)))),
  // (1 + tanh u) / 2 is sigmoid(2 u), which keeps its precision where 1 + tanh u cancels.
  geluTanh: (x) => damp(x, sigmoid(mul(2 * Math.sqrt(2 / Math.PI), add(x, mul(0.044715, pow(x, 3)))))),
  mish: (x) => damp(x, tanh(softplus(x))),
  relu: (x) => node("max", x, 0),
  erf,
  sin: one("sin"),
  cos: one("cos"),
  floor: one("floor"),
  select: (condition, a, b) => node("select", condition, a, b),
  lt: two("lt"),
  le: two("le"),
  gt: (a, b) => node("lt", b, a),
  ge: (a, b) => node("le", b, a),
  eq: two("eq"),
  step: (x) => node("lt", 0, x),
};
