import { e, type Expr } from "../expr/expr.js";
import type { Tensor } from "../tensor/tensor.js";
import { expectNoMore, expectTensor } from "../base/validate.js";
import { elementwise } from "./elementwise.js";

type Unary = (x: Tensor) => Tensor;
type Binary = (a: Tensor | number, b: Tensor | number) => Tensor;

function unary(name: string, define: (x: Expr) => Expr): Unary {
  return elementwise(name, ["x"], define);
}

function binary(name: string, define: (a: Expr, b: Expr) => Expr): Binary {
  return elementwise(name, ["a", "b"], define);
}

// Ready-made elementwise ops. Operands broadcast as in numpy; numbers become uniforms.

/** a + b */
export const add: Binary = /* @__PURE__ */ binary("add", e.add);
/** a - b */
export const sub: Binary = /* @__PURE__ */ binary("sub", e.sub);
/** a b */
export const mul: Binary = /* @__PURE__ */ binary("mul", e.mul);
/** a / b */
export const div: Binary = /* @__PURE__ */ binary("div", e.div);
/** max(a, b), NaN if either is; at a tie the gradient goes to b. */
export const maximum: Binary = /* @__PURE__ */ binary("maximum", e.max);
/** min(a, b), NaN if either is; at a tie the gradient goes to b. */
export const minimum: Binary = /* @__PURE__ */ binary("minimum", e.min);
/** 1 where a < b, else 0. Comparisons have no gradient, and give what `where` takes. */
export const less: Binary = /* @__PURE__ */ binary("less", e.lt);
/** 1 where a <= b, else 0. */
export const lessEqual: Binary = /* @__PURE__ */ binary("lessEqual", e.le);
/** 1 where a > b, else 0. */
export const greater: Binary = /* @__PURE__ */ binary("greater", e.gt);
/** 1 where a >= b, else 0. */
export const greaterEqual: Binary = /* @__PURE__ */ binary("greaterEqual", e.ge);
/** 1 where a = b, else 0. */
export const equal: Binary = /* @__PURE__ */ binary("equal", e.eq);
/** -x */
export const neg: Unary = /* @__PURE__ */ unary("neg", e.neg);
/** e^x */
export const exp: Unary = /* @__PURE__ */ unary("exp", e.exp);
/** Natural logarithm. */
export const log: Unary = /* @__PURE__ */ unary("log", e.log);
/** Square root. */
export const sqrt: Unary = /* @__PURE__ */ unary("sqrt", e.sqrt);
/** 1 / sqrt(x) */
export const rsqrt: Unary = /* @__PURE__ */ unary("rsqrt", e.rsqrt);
/** x^2 */
export const square: Unary = /* @__PURE__ */ unary("square", (x) => e.mul(x, x));
/** |x| */
export const abs: Unary = /* @__PURE__ */ unary("abs", e.abs);
/** Hyperbolic tangent. */
export const tanh: Unary = /* @__PURE__ */ unary("tanh", e.tanh);
/** 1 / (1 + e^-x) */
export const sigmoid: Unary = /* @__PURE__ */ unary("sigmoid", e.sigmoid);
/** max(x, 0), with slope 0 at 0; NaN stays NaN. */
export const relu: Unary = /* @__PURE__ */ unary("relu", e.relu);
/** x sigmoid(x) (Elfwing et al. 2017; Ramachandran et al. 2017). */
export const silu: Unary = /* @__PURE__ */ unary("silu", e.silu);
/** x Phi(x), exact (Hendrycks & Gimpel 2016). */
export const gelu: Unary = /* @__PURE__ */ unary("gelu", e.gelu);
/** GELU's tanh approximation. */
export const geluTanh: Unary = /* @__PURE__ */ unary("geluTanh", e.geluTanh);

/** a where `condition` is not zero, else b. The condition gets no gradient. */
export const where: (condition: Tensor, a: Tensor | number, b: Tensor | number) => Tensor =
  /* @__PURE__ */ elementwise("where", ["condition", "a", "b"], (condition, a, b) =>
    e.select(condition, a, b),
  );

const bounded = /* @__PURE__ */ elementwise("clip", ["x", "low", "high"], (x, low, high) =>
  e.min(e.max(x, low), high),
);

/**
 * x bounded by `low` and `high`, each a number, a tensor that broadcasts, or undefined for no bound. Where low > high
 * the result is high; NaN stays NaN. Outside the bounds x gets no gradient.
 */
export function clip(x: Tensor, low?: Tensor | number, high?: Tensor | number, ...rest: never[]): Tensor {
  expectTensor("clip", "x", x);
  expectNoMore("clip", rest);
  if (low !== undefined && high !== undefined) return bounded(x, low, high);
  if (low !== undefined) return maximum(low, x);
  return high === undefined ? x.reshape(x.shape) : minimum(high, x);
}
