import {
  ACTIVATIONS,
  checkConfig,
  expectOneOf,
  expectShape,
  expectTensor,
  GLU_GATES,
  ShapeError,
  showShape,
  type ActivationName,
  type GluKind,
  type Tensor,
} from "@x/kernels";

/** Activations of plain experts; swish has beta 1. */
export type ExpertActivation = ActivationName | "swish";

/** Experts w2 act(w1 x + b1) + b2, stacked on a first axis. */
export interface PlainExperts {
  readonly kind: "ffn";
  /** [experts, hidden, dim] */
  readonly w1: Tensor;
  /** [experts, dim, hidden] */
  readonly w2: Tensor;
  readonly b1?: Tensor | undefined;
  readonly b2?: Tensor | undefined;
  /** Default "relu". */
  readonly activation?: ExpertActivation;
}

/** Experts wDown (g(wGate x) * wUp x), stacked on a first axis. */
export interface GatedExperts {
  readonly kind: "glu";
  /** [experts, hidden, dim] */
  readonly wGate: Tensor;
  readonly wUp: Tensor;
  /** [experts, dim, hidden] */
  readonly wDown: Tensor;
  /** Default "swiglu". */
  readonly gluKind?: GluKind;
}

export type Experts = PlainExperts | GatedExperts;

/** The activation's name among those of the kernels; swish with beta 1 is SiLU. */
export function activationName(who: string, kind: ExpertActivation): ActivationName {
  const name = kind === "swish" ? "silu" : kind;
  expectOneOf(who, "activation", name, Object.keys(ACTIVATIONS) as ActivationName[]);
  return name;
}

/** The gated unit's kind, if it is one. @throws ConfigError */
export function expectGlu(who: string, kind: unknown): asserts kind is GluKind {
  expectOneOf(who, "gluKind", kind, Object.keys(GLU_GATES) as GluKind[]);
}

/** Refuse what is no weight, and weights that are missing. @throws ConfigError */
export function expectWeights(
  who: string,
  given: object,
  needed: readonly string[],
  others: readonly string[] = [],
): void {
  checkConfig(who, given, [...needed, ...others]);
  for (const name of needed) expectTensor(who, name, (given as Readonly<Record<string, unknown>>)[name]);
}

/** What experts must hold, and what they may hold. */
const KEYS = {
  ffn: { weights: ["w1", "w2"], others: ["b1", "b2", "activation"] },
  glu: { weights: ["wGate", "wUp", "wDown"], others: ["gluKind"] },
} as const;

/**
 * Number of experts, with their shapes checked against the tokens' width.
 *
 * @throws ShapeError, ConfigError
 */
export function expertCount(who: string, experts: Experts, dim: number): number {
  expectOneOf(who, "kind of the experts", experts.kind, ["ffn", "glu"]);
  const { weights, others } = KEYS[experts.kind];
  expectWeights(`${who}, experts`, experts, weights, ["kind", ...others]);
  if (experts.kind === "glu") expectGlu(who, experts.gluKind ?? "swiglu");
  else activationName(who, experts.activation ?? "relu");
  const [first, last] = experts.kind === "ffn" ? [experts.w1, experts.w2] : [experts.wGate, experts.wDown];
  if (
    first.rank !== 3 ||
    last.rank !== 3 ||
    first.shape[2] !== dim ||
    last.shape[1] !== dim ||
    first.shape[0] !== last.shape[0] ||
    first.shape[1] !== last.shape[2]
  ) {
    throw new ShapeError(
      who,
      `the experts' weights have shapes ${showShape(first.shape)} and ${showShape(last.shape)}; they must be [experts, hidden, ${dim}] and [experts, ${dim}, hidden]`,
    );
  }
  const [count, hidden] = first.shape as [number, number];
  if (experts.kind === "glu") expectShape(who, "wUp", experts.wUp, [count, hidden, dim]);
  else {
    if (experts.b1) expectShape(who, "b1", experts.b1, [count, hidden]);
    if (experts.b2) expectShape(who, "b2", experts.b2, [count, dim]);
  }
  return count;
}

/** Check the router's weights [experts, dim] against x [..., dim]. */
export function expectRouter(who: string, x: Tensor, wRouter: Tensor, experts: number): void {
  if (x.rank < 2)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [..., tokens, dim]`);
  expectShape(who, "wRouter", wRouter, [experts, x.shape.at(-1)!]);
}
