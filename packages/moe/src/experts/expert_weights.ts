import {
  ACTIVATIONS,
  expectOneOf,
  expectRecord,
  expectShape,
  expectTensors,
  GATED_UNIT_FIELDS,
  gatedUnit,
  GLU_GATES,
  oneOf,
  schema,
  ShapeError,
  showShape,
  tensor,
  type ActivationName,
  type Config,
  type Expr,
  type GluKind,
  type Tensor,
} from "@x/kernels";

/** Activations of plain experts; swish has beta 1. */
export type ExpertActivation = ActivationName | "swish";

/** Names of the activations of plain experts. */
export const EXPERT_ACTIVATIONS: readonly ExpertActivation[] = [
  ...(Object.keys(ACTIVATIONS) as ActivationName[]),
  "swish",
];
/** Kinds of gated units. */
export const EXPERT_GATES: readonly GluKind[] = Object.keys(GLU_GATES) as GluKind[];

const PLAIN = schema("experts", {
  kind: oneOf("Plain experts.", ["ffn"]),
  w1: tensor("[experts, hidden, dim]."),
  w2: tensor("[experts, dim, hidden]."),
  b1: tensor("[experts, hidden].", { optional: true }),
  b2: tensor("[experts, dim].", { optional: true }),
  activation: oneOf("Activation of the hidden units.", EXPERT_ACTIVATIONS, { default: "relu" }),
});
const GATED = schema("experts", {
  kind: oneOf("Gated experts.", ["glu"]),
  wGate: tensor("[experts, hidden, dim]."),
  wUp: tensor("[experts, hidden, dim]."),
  wDown: tensor("[experts, dim, hidden]."),
  bGate: tensor("[experts, hidden].", { optional: true }),
  bUp: tensor("[experts, hidden].", { optional: true }),
  bDown: tensor("[experts, dim].", { optional: true }),
  gluKind: oneOf("The gated unit g.", EXPERT_GATES, { default: "swiglu" }),
  ...GATED_UNIT_FIELDS,
});

/** Experts w2 act(w1 x + b1) + b2, stacked on a first axis. */
export type PlainExperts = Config<typeof PLAIN>;
/** Experts wDown (g(wGate x + bGate) * (wUp x + bUp)) + bDown, stacked on a first axis; g as `gatedUnit` says. */
export type GatedExperts = Config<typeof GATED>;
export type Experts = PlainExperts | GatedExperts;

/** What a gated unit is, apart from its matrices. */
export type Gate = Pick<GatedExperts, "gluKind" | "beta" | "limit" | "upOffset">;

/** The unit of gated experts, an expression of "x" and "up". @throws ConfigError for a beta of another kind than swiglu */
export const unitOf = (caller: string, { gluKind = "swiglu", beta, limit, upOffset }: Gate): Expr =>
  gatedUnit(caller, gluKind, { beta, limit, upOffset });

/** The activation's name among those of the kernels; swish with beta 1 is SiLU. */
export const activationName = (activation: ExpertActivation): ActivationName =>
  activation === "swish" ? "silu" : activation;

/**
 * Returns the number of experts, after a check of their weights and of the weights' shapes against the tokens' width.
 *
 * @throws ShapeError, ConfigError
 */
export function expertCount(caller: string, experts: Experts, dim: number): number {
  expectRecord(caller, "experts", experts);
  expectOneOf(caller, "kind of the experts", experts.kind, ["ffn", "glu"]);
  const reader = `${caller}, experts`;
  const [first, last] =
    experts.kind === "ffn"
      ? [PLAIN.read(experts, reader).w1, experts.w2]
      : [GATED.read(experts, reader).wGate, experts.wDown];
  if (
    first.rank !== 3 ||
    last.rank !== 3 ||
    first.shape[2] !== dim ||
    last.shape[1] !== dim ||
    first.shape[0] !== last.shape[0] ||
    first.shape[1] !== last.shape[2]
  ) {
    throw new ShapeError(
      caller,
      `the experts' weights have shapes ${showShape(first.shape)} and ${showShape(last.shape)}; they must be [experts, hidden, ${dim}] and [experts, ${dim}, hidden]`,
    );
  }
  const [count, hidden] = first.shape as [number, number];
  if (experts.kind === "glu") {
    unitOf(reader, experts);
    expectShape(caller, "wUp", experts.wUp, [count, hidden, dim]);
    for (const name of ["bGate", "bUp"] as const)
      if (experts[name] !== undefined) expectShape(caller, name, experts[name], [count, hidden]);
    if (experts.bDown !== undefined) expectShape(caller, "bDown", experts.bDown, [count, dim]);
  } else {
    if (experts.b1 !== undefined) expectShape(caller, "b1", experts.b1, [count, hidden]);
    if (experts.b2 !== undefined) expectShape(caller, "b2", experts.b2, [count, dim]);
  }
  return count;
}

/**
 * Returns the number of experts of a layer, after a check of x [..., tokens, dim], of the router's weights
 * [experts, dim] and of the experts.
 *
 * @throws ShapeError, ConfigError
 */
export function expectRouted(caller: string, x: Tensor, wRouter: Tensor, experts: Experts): number {
  expectTensors(caller, { x, wRouter });
  const dim = x.shape.at(-1) ?? 0;
  const count = expertCount(caller, experts, dim);
  if (x.rank < 2)
    throw new ShapeError(caller, `x has shape ${showShape(x.shape)}; it must be [..., tokens, dim]`);
  expectShape(caller, "wRouter", wRouter, [count, dim]);
  return count;
}
