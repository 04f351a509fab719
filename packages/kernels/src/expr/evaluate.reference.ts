import type { Expr } from "./expr.js";

function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 3) {
    let sum = 0;
    let term = x;
    for (let n = 0; n < 200; n++) {
      sum += term / (2 * n + 1);
      term *= (-x * x) / (n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  // Continued fraction of erfc for large arguments.
  let tail = 0;
  for (let n = 60; n > 0; n--) tail = n / 2 / (z + tail);
  return Math.sign(x) * (1 - Math.exp(-z * z) / ((z + tail) * Math.sqrt(Math.PI)));
}

/** Value of an expression in double precision. */
export function evaluate(x: Expr, inputs: Readonly<Record<string, number>>): number {
  const [a = NaN, b = NaN, c = NaN] = x.args.map((arg) => evaluate(arg, inputs));
  switch (x.op) {
    case "const":
      return x.value;
    case "input":
      return inputs[(x as { name: string }).name] ?? NaN;
    case "add":
      return a + b;
    case "sub":
      return a - b;
    case "mul":
      return a * b;
    case "damp":
      return a === 0 || b === 0 ? 0 : a * b;
    case "div":
      return a / b;
    case "min":
      return Math.min(a, b);
    case "max":
      return Math.max(a, b);
    case "lt":
      return a < b ? 1 : 0;
    case "le":
      return a <= b ? 1 : 0;
    case "eq":
      return a === b ? 1 : 0;
    case "pow":
      return a ** b;
    case "neg":
      return -a;
    case "exp":
      return Math.exp(a);
    case "log":
      return Math.log(a);
    case "sqrt":
      return Math.sqrt(a);
    case "rsqrt":
      return 1 / Math.sqrt(a);
    case "abs":
      return Math.abs(a);
    case "sign":
      return Math.sign(a);
    case "tanh":
      return Math.tanh(a);
    case "sigmoid":
      return 1 / (1 + Math.exp(-a));
    case "softplus":
      return Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a)));
    case "erf":
      return erf(a);
    case "sin":
      return Math.sin(a);
    case "cos":
      return Math.cos(a);
    case "floor":
      return Math.floor(a);
    case "select":
      return a !== 0 ? b : c;
  }
}
