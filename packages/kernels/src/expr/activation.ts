import { ConfigError } from "../errors.js";
import { nearest } from "../validate.js";
import { e, input, type Expr } from "./expr.js";

/** Activations that fused ops know by name. */
export type ActivationName =
  "identity" | "relu" | "gelu" | "gelu_tanh" | "silu" | "mish" | "sigmoid" | "tanh" | "softplus" | "relu2";

/** The expression of each named activation. */
export const ACTIVATIONS: Readonly<Record<ActivationName, (x: Expr) => Expr>> = {
  identity: (x) => x,
  relu: e.relu,
  gelu: e.gelu,
  gelu_tanh: e.geluTanh,
  silu: e.silu,
  mish: e.mish,
  sigmoid: e.sigmoid,
  tanh: e.tanh,
  softplus: e.softplus,
  relu2: (x) => e.pow(e.relu(x), 2),
};

/** An activation by name, or as an expression of the input "x". */
export type Activation = ActivationName | Expr;

/** The expression of an activation over the input "x". */
export function activationExpr(who: string, activation: Activation): Expr {
  if (typeof activation !== "string") return activation;
  if (!Object.hasOwn(ACTIVATIONS, activation)) {
    const near = nearest(activation, Object.keys(ACTIVATIONS));
    throw new ConfigError(
      who,
      `activation is "${activation}"; it must be one of ${Object.keys(ACTIVATIONS).join(", ")}${near === undefined ? "" : ` (did you mean "${near}"?)`}`,
    );
  }
  return ACTIVATIONS[activation](input("x"));
}
