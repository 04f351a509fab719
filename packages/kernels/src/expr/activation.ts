import { ConfigError } from "../base/errors.js";
import { show } from "../base/show.js";
import { nearest } from "../base/validate.js";
import { e, input, isExpr, type Expr } from "./expr.js";

/** Activations that fused ops know by name. */
export type ActivationName =
  | "identity"
  | "relu"
  | "gelu"
  | "geluTanh"
  | "silu"
  | "mish"
  | "sigmoid"
  | "tanh"
  | "softplus"
  | "squaredRelu";

/** The expression of each named activation. */
export const ACTIVATIONS: Readonly<Record<ActivationName, (x: Expr) => Expr>> = {
  identity: (x) => x,
  relu: e.relu,
  gelu: e.gelu,
  geluTanh: e.geluTanh,
  silu: e.silu,
  mish: e.mish,
  sigmoid: e.sigmoid,
  tanh: e.tanh,
  softplus: e.softplus,
  squaredRelu: (x) => e.pow(e.relu(x), 2),
};

/** An activation by name, or as an expression of the input "x". */
export type Activation = ActivationName | Expr;

/** The expression of an activation over the input "x". @throws ConfigError */
export function activationExpr(who: string, activation: Activation): Expr {
  if (typeof activation !== "string") {
    if (!isExpr(activation))
      throw new ConfigError(
        who,
        `activation is ${show(activation)}; it must be a name (${Object.keys(ACTIVATIONS).join(", ")}) or an expression of the input "x"`,
      );
    return activation;
  }
  if (!Object.hasOwn(ACTIVATIONS, activation)) {
    const near = nearest(activation, Object.keys(ACTIVATIONS));
    throw new ConfigError(
      who,
      `activation is "${activation}"; it must be one of ${Object.keys(ACTIVATIONS).join(", ")}${near === undefined ? "" : ` (did you mean "${near}"?)`}`,
    );
  }
  return ACTIVATIONS[activation](input("x"));
}

/** Gated linear units, by the activation of their gate (Shazeer 2020, arXiv:2002.05202). */
export const GLU_GATES: Readonly<Record<GluKind, ActivationName>> = {
  glu: "sigmoid",
  bilinear: "identity",
  reglu: "relu",
  geglu: "gelu",
  gegluTanh: "geluTanh",
  swiglu: "silu",
  miglu: "mish",
};

export type GluKind = "glu" | "bilinear" | "reglu" | "geglu" | "gegluTanh" | "swiglu" | "miglu";
