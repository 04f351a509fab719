import { ConfigError } from "../base/errors.js";
import { topological } from "./derive.js";
import type { Expr } from "./expr.js";

/** WGSL value types that an expression can be written for. */
export type ExprType = "f32" | "vec2f" | "vec4f";

/** WGSL of the test for NaN, by its bits: a driver may assume that there is none, and then comparisons tell nothing. */
const isNaN = (x: string, T: ExprType): string => {
  const U = T.replace("f", "u");
  return `(bitcast<${U}>(${x}) & ${U}(0x7fffffffu)) > ${U}(0x7f800000u)`;
};

/** The larger or smaller of two, NaN where either is. WGSL's max and min may give the other number then. */
const extreme =
  (name: "max" | "min", order: "<" | ">") =>
  (T: ExprType): string => `fn expr_${name}_${T}(x: ${T}, y: ${T}) -> ${T} {
  return select(select(x, y, x ${order} y), y, ${isNaN("y", T)});
}`;

/** Helper functions that do not overflow and are accurate in float32, by name. */
const HELPERS: Readonly<Record<string, (T: ExprType) => string>> = {
  max: extreme("max", "<"),
  min: extreme("min", ">"),
  sign: (T) => `fn expr_sign_${T}(x: ${T}) -> ${T} {
  return select(sign(x), x, ${isNaN("x", T)});
}`,
  tanh: (T) => `fn expr_tanh_${T}(x: ${T}) -> ${T} {
  let s = x * x;
  let near = x * (1.0 + s * (-0.3333333333 + s * (0.1333333333 + s * (-0.0539682540 + s * 0.0218694885))));
  let t = exp(-2.0 * abs(x));
  return select(sign(x) * (1.0 - t) / (1.0 + t), near, s < ${T}(0.0625));
}`,
  sigmoid: (T) => `fn expr_sigmoid_${T}(x: ${T}) -> ${T} {
  let t = exp(-abs(x));
  return select(${T}(1.0), t, x < ${T}(0.0)) / (1.0 + t);
}`,
  damp: (T) => `fn expr_damp_${T}(x: ${T}, y: ${T}) -> ${T} {
  return select(x * y, ${T}(0.0), (x == ${T}(0.0)) | (y == ${T}(0.0)));
}`,
  softplus: (T) => `fn expr_softplus_${T}(x: ${T}) -> ${T} {
  let t = exp(-abs(x));
  return max(x, ${T}(0.0)) + select(log(1.0 + t), t - 0.5 * t * t + t * t * t * (1.0 / 3.0), t < ${T}(0.01));
}`,
  // Numerical approximation of the error function: a Chebyshev fit of erfc with relative error below 1.2e-7
  // away from 0, the Maclaurin series near it.
  erf: (T) => `fn expr_erf_${T}(x: ${T}) -> ${T} {
  let z = abs(x);
  let t = 1.0 / (1.0 + 0.5 * z);
  let tail = t * exp(-z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
    + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  let s = x * x;
  let near = x * (1.1283791671 + s * (-0.3761263890 + s * (0.1128379167 + s * (-0.0268661706 + s * (0.0052239776 - s * 0.0008548327)))));
  return select(sign(x) * (1.0 - tail), near, z < ${T}(0.5));
}`,
};

function literal(value: number): string {
  if (Number.isNaN(value)) throw new ConfigError("elementwise", "an expression holds the constant NaN");
  if (Math.abs(value) > 3.4028234e38) return value > 0 ? "3.4028234e38" : "-3.4028234e38";
  const text = String(Math.fround(value));
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** What an expression needs and how it is computed, as WGSL statements. */
export interface ExprCode {
  /** Helper functions by name, to be placed once at module scope. */
  readonly helpers: ReadonlyMap<string, string>;
  /** `let` statements. */
  readonly statements: readonly string[];
  /** Value of each root. */
  readonly results: readonly string[];
}

/**
 * WGSL for expressions over values that are already loaded: `names` maps an input to its WGSL name. Common
 * subexpressions are computed once.
 */
export function exprToWgsl(
  roots: readonly Expr[],
  names: (input: string) => string,
  type: ExprType = "f32",
  prefix = "e",
): ExprCode {
  const helpers = new Map<string, string>();
  const statements: string[] = [];
  const value = new Map<Expr, string>();
  const numbered = new Map<string, string>();
  const T = type;
  const call = (helper: string, x: string): string => {
    const name = `expr_${helper}_${T}`;
    if (!helpers.has(name)) helpers.set(name, (HELPERS[helper] as (T: ExprType) => string)(T));
    return `${name}(${x})`;
  };
  const text = (x: Expr, a: string, b: string, c: string): string => {
    switch (x.op) {
      case "const":
        return `${T}(${literal(x.value)})`;
      case "input":
        return names((x as { name: string }).name);
      case "add":
        return `${a} + ${b}`;
      case "sub":
        return `${a} - ${b}`;
      case "mul":
        return `${a} * ${b}`;
      case "div":
        return `${a} / ${b}`;
      case "damp":
        return call("damp", `${a}, ${b}`);
      case "neg":
        return `-${a}`;
      case "min":
      case "max": {
        // A constant is not NaN: where the other operand is, the comparison fails and leaves it.
        const [first, second] = x.args as readonly [Expr, Expr];
        const order = x.op === "max" ? "<" : ">";
        if (second.op === "const") return `select(${a}, ${b}, ${a} ${order} ${b})`;
        if (first.op === "const") return `select(${b}, ${a}, ${b} ${order} ${a})`;
        return call(x.op, `${a}, ${b}`);
      }
      case "pow":
        return `${x.op}(${a}, ${b})`;
      case "lt":
        return `select(${T}(0.0), ${T}(1.0), ${a} < ${b})`;
      case "le":
        return `select(${T}(0.0), ${T}(1.0), ${a} <= ${b})`;
      case "eq":
        return `select(${T}(0.0), ${T}(1.0), ${a} == ${b})`;
      case "select":
        return `select(${c}, ${b}, ${a} != ${T}(0.0))`;
      case "rsqrt":
        return `inverseSqrt(${a})`;
      case "tanh":
      case "sigmoid":
      case "softplus":
      case "erf":
      case "sign":
        return call(x.op, a);
      case "exp":
      case "log":
      case "sqrt":
      case "abs":
      case "sin":
      case "cos":
      case "floor":
        return `${x.op}(${a})`;
    }
  };
  for (const x of topological(roots)) {
    const [a = "", b = "", c = ""] = x.args.map((arg) => value.get(arg) ?? "");
    const code = text(x, a, b, c);
    if (x.op === "const" || x.op === "input") {
      value.set(x, code);
      continue;
    }
    let name = numbered.get(code);
    if (name === undefined) {
      name = `${prefix}${String(numbered.size)}`;
      numbered.set(code, name);
      statements.push(`let ${name} = ${code};`);
    }
    value.set(x, name);
  }
  return { helpers, statements, results: roots.map((root) => value.get(root) ?? "") };
}

/** A whole WGSL function `fn name(a: T, b: T) -> T` for an expression, with the helpers it needs. */
export function exprFunction(
  name: string,
  args: readonly string[],
  root: Expr,
  type: ExprType = "f32",
): string {
  const code = exprToWgsl([root], (input) => input, type);
  return [
    ...code.helpers.values(),
    `fn ${name}(${args.map((arg) => `${arg}: ${type}`).join(", ")}) -> ${type} {`,
    ...code.statements.map((s) => `  ${s}`),
    `  return ${type}(${code.results[0] ?? "0.0"});`,
    `}`,
  ].join("\n");
}
