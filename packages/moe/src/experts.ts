import {
  activationExpr,
  e,
  elementwise,
  expectOneOf,
  expectShape,
  GLU_GATES,
  groupedMatmul,
  input,
  ShapeError,
  showShape,
  type ActivationName,
  type GluKind,
  type Tensor,
} from "@x/kernels";
import { combine, dispatch, gatherTokens } from "./dispatch.js";

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

const ops = new Map<string, (...args: Tensor[]) => Tensor>();

/** The activation's name among those of the kernels; swish with beta 1 is SiLU. */
export function activationName(who: string, kind: ExpertActivation): ActivationName {
  const name = kind === "swish" ? "silu" : kind;
  activationExpr(who, name);
  return name;
}

function activate(kind: ExpertActivation, x: Tensor): Tensor {
  const name = activationName("experts", kind);
  if (name === "identity") return x;
  let op = ops.get(name);
  if (!op) {
    const expr = activationExpr("experts", name);
    ops.set(name, (op = elementwise(name, ["x"], () => expr)));
  }
  return op(x);
}

/** g(gate) * up in one pass. */
export function gated(kind: GluKind, x: Tensor, up: Tensor): Tensor {
  expectOneOf("experts", "gluKind", kind, Object.keys(GLU_GATES) as GluKind[]);
  let op = ops.get(kind);
  if (!op) {
    const expr = e.mul(activationExpr("experts", GLU_GATES[kind]), input("up"));
    ops.set(kind, (op = elementwise(kind, ["x", "up"], () => expr)));
  }
  return op(x, up);
}

/**
 * Number of experts, with their shapes checked against the tokens' width.
 *
 * @throws ShapeError
 */
export function expertCount(who: string, experts: Experts, dim: number): number {
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

/** Each sorted row through its expert: rows [choices, dim] -> [choices, dim]. */
export function runExperts(rows: Tensor, experts: Experts, offsets: Tensor): Tensor {
  if (experts.kind === "ffn") {
    const { w1, w2, b1, b2, activation = "relu" } = experts;
    return groupedMatmul(activate(activation, groupedMatmul(rows, w1, offsets, { bias: b1 })), w2, offsets, {
      bias: b2,
    });
  }
  const { wGate, wUp, wDown, gluKind = "swiglu" } = experts;
  return groupedMatmul(
    gated(gluKind, groupedMatmul(rows, wGate, offsets), groupedMatmul(rows, wUp, offsets)),
    wDown,
    offsets,
  );
}

/**
 * out[t] = sum_k weights[t, k] expert_{indices[t, k]}(x[t]): tokens are sorted by expert, each expert multiplies its own
 * rows, and the results go back. An index below 0 is a choice that was dropped.
 *
 * x [tokens, dim], indices i32 and weights f32 [tokens, k].
 */
export function mixExperts(x: Tensor, experts: Experts, indices: Tensor, weights: Tensor): Tensor {
  return x.gpu.scope(() => {
    const plan = dispatch(indices, expertCount("experts", experts, x.shape.at(-1)!));
    return combine(runExperts(gatherTokens(x, plan), experts, plan.offsets), weights, plan);
  });
}
