import {
  ACTIVATIONS,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectNumber,
  expectOneOf,
  input,
  schema,
  ShapeError,
  showShape,
  type ActivationName,
  type Config,
  type Expr,
  type Tensor,
} from "@x/kernels";
import { BETA } from "./operands.js";

/** Kinds of activation; "swish" takes beta. */
export type ActivationKind = ActivationName | "swish";

const x = input("x");

/** Each kind as an expression of "x" (and, for swish, "beta"). */
export const ACTIVATION_EXPRESSIONS: Readonly<Record<ActivationKind, Expr>> = {
  ...(Object.fromEntries(Object.entries(ACTIVATIONS).map(([name, f]) => [name, f(x)])) as Record<
    ActivationName,
    Expr
  >),
  swish: e.mul(x, e.sigmoid(e.mul(input("beta"), x))),
};

export const ACTIVATION_KINDS: readonly ActivationKind[] = Object.keys(
  ACTIVATION_EXPRESSIONS,
) as ActivationKind[];

/** beta of swish: a number, or a tensor [1] or [dim] that is trained. */
export type Beta = number | Tensor;

const OPTIONS = schema("activation", { beta: BETA });
export type ActivationOptions = Config<typeof OPTIONS>;

const ops = new Map<string, (...args: (Tensor | number)[]) => Tensor>();

function op(kind: ActivationKind): (...args: (Tensor | number)[]) => Tensor {
  let found = ops.get(kind);
  if (!found) {
    const names = kind === "swish" ? ["x", "beta"] : ["x"];
    ops.set(kind, (found = elementwise(kind, names, () => ACTIVATION_EXPRESSIONS[kind])));
  }
  return found;
}

/** Check beta against the features it scales. */
export function checkBeta(who: string, kind: string, beta: Beta | undefined, dim: number): Beta {
  if (beta === undefined) return 1;
  if (kind !== "swish" && kind !== "swiglu")
    throw new ConfigError(who, `beta is given; only swish and swiglu have one, not ${kind}`);
  if (typeof beta === "number") {
    expectNumber(who, "beta", beta);
    return beta;
  }
  expectDType(who, "beta", beta, "f32", "f16");
  if (beta.rank !== 1 || (beta.size !== 1 && beta.size !== dim))
    throw new ShapeError(who, `beta has shape ${showShape(beta.shape)}; it must be [1] or [${dim}]`);
  return beta;
}

/**
 * An activation, elementwise: relu max(x, 0); squaredRelu its square (arXiv:2109.08668); gelu x Phi(x) with erf and
 * geluTanh its tanh form (arXiv:1606.08415); swish x sigmoid(beta x) (arXiv:1710.05941); silu swish at beta 1; mish
 * x tanh(softplus(x)) (arXiv:1908.08681); sigmoid; tanh; identity.
 *
 * x [..., dim], f32 or f16, computed in f32.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function activation(x: Tensor, kind: ActivationKind, options: ActivationOptions = {}): Tensor {
  const who = OPTIONS.name;
  expectDType(who, "x", x, "f32", "f16");
  expectOneOf(who, "kind", kind, ACTIVATION_KINDS);
  const beta = checkBeta(who, kind, OPTIONS.read(options).beta, x.shape.at(-1) ?? 1);
  if (kind === "identity") return x.reshape(x.shape);
  return kind === "swish" ? op(kind)(x, beta) : op(kind)(x);
}
