import { ConfigError } from "../base/errors.js";
import { number } from "../component/schema.js";
import { ACTIVATIONS, GLU_GATES, type GluKind } from "../expr/activation.js";
import { e, input, type Expr } from "../expr/expr.js";

/** Keys of a gated unit besides its kind; gpt-oss has beta 1.702, limit 7 and upOffset 1. */
export const GATED_UNIT_FIELDS = {
  beta: number("Factor in the sigmoid of swiglu.", { default: 1 }),
  limit: number(
    "Upper bound of what the gate's activation takes, and bound of the other factor on both sides.",
    {
      min: Number.MIN_VALUE,
      defaultDoc: "none",
    },
  ),
  upOffset: number("Added to the other factor.", { default: 0 }),
};

/** The numbers of a gated unit; beta "input" is the input "beta" of the expression. */
export interface GatedUnitNumbers {
  readonly beta?: number | "input" | undefined;
  readonly limit?: number | undefined;
  readonly upOffset?: number | undefined;
}

const units = new Map<string, Expr>();

/**
 * A gated unit as an expression of "x", the gate's product, and "up": g(x) (up + upOffset); with a limit
 * g(min(x, limit)) (clamp(up, -limit, limit) + upOffset), whose gradient is 0 where a bound holds. The feed-forward
 * blocks and the experts of a mixture share it. Shazeer 2020, arXiv:2002.05202; gpt-oss, arXiv:2508.10925.
 *
 * @throws ConfigError for a beta of a kind that is not swiglu
 */
export function gatedUnit(caller: string, kind: GluKind, numbers: GatedUnitNumbers = {}): Expr {
  const { beta = 1, limit, upOffset = 0 } = numbers;
  if (beta !== 1 && kind !== "swiglu")
    throw new ConfigError(caller, `beta is given; only swiglu has one, not ${kind}`);
  const key = [kind, beta, limit, upOffset].join();
  const known = units.get(key);
  if (known) return known;
  const x = limit === undefined ? input("x") : e.min(input("x"), limit);
  const bounded = limit === undefined ? input("up") : e.max(e.min(input("up"), limit), -limit);
  const up = upOffset === 0 ? bounded : e.add(bounded, upOffset);
  const factor = beta === "input" ? input("beta") : beta;
  const gate = beta === 1 ? ACTIVATIONS[GLU_GATES[kind]](x) : e.damp(x, e.sigmoid(e.mul(factor, x)));
  const unit = e.mul(gate, up);
  units.set(key, unit);
  return unit;
}
