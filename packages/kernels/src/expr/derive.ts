import { e, type Expr, type Operand } from "./expr.js";

/** Operations in an order in which operands come first, each once. */
export function topological(roots: readonly Expr[]): Expr[] {
  const order: Expr[] = [];
  const seen = new Set<Expr>();
  const visit = (x: Expr): void => {
    if (seen.has(x)) return;
    seen.add(x);
    for (const arg of x.args) visit(arg);
    order.push(x);
  };
  for (const root of roots) visit(root);
  return order;
}

const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);

/**
 * Cotangents of a node's operands, given the node and its cotangent g. A factor of 0 wins (`damp`): where a function has
 * saturated, its slope is 0 however large what it saturates over has grown.
 */
function partials(x: Expr, g: Expr): (Expr | undefined)[] {
  const a = x.args[0] as Expr;
  const b = x.args[1] as Expr;
  switch (x.op) {
    case "const":
    case "input":
      return [];
    case "add":
      return [g, g];
    case "sub":
      return [g, e.neg(g)];
    case "mul":
    case "damp":
      return [e.damp(g, b), e.damp(g, a)];
    case "div":
      return [e.div(g, b), e.neg(e.div(e.mul(g, x), b))];
    // Ties go to the second operand, so max(x, 0) has slope 0 at 0. At NaN, where no comparison holds, both operands
    // take the cotangent.
    case "min":
      return [e.select(e.le(b, a), 0, g), e.select(e.lt(a, b), 0, g)];
    case "max":
      return [e.select(e.le(a, b), 0, g), e.select(e.lt(b, a), 0, g)];
    case "lt":
    case "le":
    case "eq":
    case "sign":
    case "floor":
      return [];
    case "neg":
      return [e.neg(g)];
    case "exp":
      return [e.damp(g, x)];
    case "log":
      return [e.div(g, a)];
    case "sqrt":
      return [e.div(e.mul(g, 0.5), x)];
    case "rsqrt":
      return [e.damp(e.mul(g, -0.5), e.div(x, a))];
    case "pow": {
      const exponent = b.op === "const" ? b.value : NaN;
      return [e.damp(g, e.mul(exponent, e.pow(a, exponent - 1)))];
    }
    case "abs":
      return [e.mul(g, e.sign(a))];
    case "tanh":
      return [e.damp(g, e.sub(1, e.mul(x, x)))];
    case "sigmoid":
      // Not 1 - x, which has no precision left where the sigmoid is almost 1.
      return [e.damp(g, e.mul(x, e.sigmoid(e.neg(a))))];
    case "softplus":
      return [e.damp(g, e.sigmoid(a))];
    case "erf":
      return [e.damp(g, e.mul(TWO_OVER_SQRT_PI, e.exp(e.neg(e.mul(a, a)))))];
    case "sin":
      return [e.mul(g, e.cos(a))];
    case "cos":
      return [e.neg(e.mul(g, e.sin(a)))];
    case "select":
      return [undefined, e.select(a, g, 0), e.select(a, 0, g)];
  }
}

/**
 * Reverse-mode derivative: the expression of d(output)/d(input) times `seed`, for each named input; undefined
 * where the output does not depend on it.
 */
export function derive(output: Expr, names: readonly string[], seed: Operand): (Expr | undefined)[] {
  const cotangents = new Map<Expr, Expr>([[output, typeof seed === "number" ? e.const(seed) : seed]]);
  const order = topological([output]);
  const byName = new Map<string, Expr>();
  for (const x of order.reverse()) {
    const g = cotangents.get(x);
    if (!g) continue;
    if (x.op === "input") {
      const { name } = x as { name: string };
      const sofar = byName.get(name);
      byName.set(name, sofar ? e.add(sofar, g) : g);
      continue;
    }
    partials(x, g).forEach((partial, i) => {
      const arg = x.args[i];
      if (!partial || !arg || arg.op === "const") return;
      const sofar = cotangents.get(arg);
      cotangents.set(arg, sofar ? e.add(sofar, partial) : partial);
    });
  }
  return names.map((name) => byName.get(name));
}
