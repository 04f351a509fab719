import { e, type Expr } from "../expr/expr.js";
import { sumToShape } from "../tensor/reduce.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import { ConfigError } from "../base/errors.js";
import { expectNoMore, expectTensor } from "../base/validate.js";
import { elementwise } from "./elementwise.js";

/** a^b for real a: 1 at b = 0; of a negative a by the parity of b, and NaN where b is not an integer. */
function power(a: Expr, b: Expr): Expr {
  const size = e.exp(e.mul(b, e.log(e.abs(a))));
  const half = e.mul(b, 0.5);
  const odd = e.sub(1, e.eq(half, e.floor(half)));
  // The square root of a negative number is NaN, made while the kernel runs.
  const negative = e.select(e.eq(b, e.floor(b)), e.select(odd, e.neg(size), size), e.sqrt(a));
  const square = e.select(e.eq(b, 2), e.mul(a, a), e.select(e.lt(a, 0), negative, size));
  return e.select(e.eq(b, 0), 1, e.select(e.eq(b, 1), a, square));
}

const forward = /* @__PURE__ */ elementwise("pow", ["a", "b"], power);
const ofBase = /* @__PURE__ */ elementwise("powBackwardBase", ["g", "a", "b"], (g, a, b) =>
  e.select(e.eq(b, 0), 0, e.mul(g, e.mul(b, power(a, e.sub(b, 1))))),
);
const ofExponent = /* @__PURE__ */ elementwise("powBackwardExponent", ["g", "a", "y"], (g, a, y) =>
  e.select(e.eq(y, 0), 0, e.mul(g, e.mul(y, e.log(a)))),
);

/**
 * base^exponent, elementwise with broadcasting: 1 where the exponent is 0; a negative base takes integer exponents and
 * is NaN with others.
 *
 * Operands f32 or f16, or a number for one of them. Differentiable in both; the gradient of the exponent is
 * y log(base), which is NaN for a negative base, and 0 where y is 0.
 *
 * @throws ShapeError, ConfigError
 */
export function pow(base: Tensor | number, exponent: Tensor | number, ...rest: never[]): Tensor {
  expectNoMore("pow", rest);
  if (typeof base !== "number") expectTensor("pow", "base", base);
  if (typeof exponent !== "number") expectTensor("pow", "exponent", exponent);
  const [a, b] = [base, exponent].map((x) => (typeof x === "number" ? undefined : x));
  if (!a && !b) throw new ConfigError("pow", "every argument is a number; at least one must be a tensor");
  return applyOp({
    name: "pow",
    inputs: [a, b],
    forward: () => ({ outputs: [forward(base, exponent)] }),
    backward: ({ grads, outputs, needs }) => [
      needs[0] && a ? sumToShape(ofBase(grads[0]!, base, exponent), a.shape) : undefined,
      needs[1] && b ? sumToShape(ofExponent(grads[0]!, base, outputs[0]!), b.shape) : undefined,
    ],
  })[0]!;
}
