import { expectShape, linear, mul, schema, sigmoid, tensor, type Config, type Tensor } from "@x/kernels";
import type { Gate } from "./expert_weights.js";
import { gated } from "./experts.js";

const SHARED = schema("shared experts", {
  wGate: tensor("[hidden, dim]; of several shared experts one below the other."),
  wUp: tensor("[hidden, dim]."),
  wDown: tensor("[dim, hidden]."),
  gate: tensor("[1, dim]: the sigmoid of its product with x scales the result (Qwen2-MoE).", {
    optional: true,
  }),
});
/** The experts that see every token, as one gated layer. */
export type SharedExperts = Config<typeof SHARED>;

/** Checks shared experts against the tokens' width. @throws ShapeError, ConfigError */
export function expectShared(caller: string, shared: SharedExperts, dim: number): void {
  const { wGate, wUp, wDown, gate } = SHARED.read(shared, `${caller}, shared experts`);
  const names = expectShape(caller, "shared wGate", wGate, ["hidden", dim]);
  expectShape(caller, "shared wUp", wUp, ["hidden", dim], names);
  expectShape(caller, "shared wDown", wDown, [dim, "hidden"], names);
  if (gate) expectShape(caller, "shared gate", gate, [1, dim]);
}

/** What shared experts add to rows [tokens, dim]. */
export interface SharedUnits {
  /** Coefficients of wDown's columns, [tokens, hidden], the gate's factor included. */
  readonly units: Tensor;
  /** sigmoid(x gate^T), [tokens, 1]. */
  readonly gate: Tensor | undefined;
}

/** The hidden units of shared experts, times sigmoid(x gate^T) where they have a gate. */
export function sharedUnits(rows: Tensor, shared: SharedExperts, unit: Gate): SharedUnits {
  const units = gated(unit, linear(rows, shared.wGate), linear(rows, shared.wUp));
  const gate = shared.gate && sigmoid(linear(rows, shared.gate));
  return { units: gate ? mul(units, gate) : units, gate };
}
