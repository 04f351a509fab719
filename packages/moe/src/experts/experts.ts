import {
  activationExpr,
  elementwise,
  expectDType,
  expectShape,
  expectTensors,
  groupedMatmul,
  isTracked,
  Tensor,
  type Expr,
} from "@x/kernels";
import {
  activationName,
  expertCount,
  unitOf,
  type ExpertActivation,
  type Experts,
  type Gate,
} from "./expert_weights.js";
import { FEW_CHOICES, mixFew } from "./few_choices.js";
import { expectChoices } from "../router/choices.js";
import { combine, dispatch, gatherTokens } from "./dispatch.js";

const ops = new Map<string, (...args: Tensor[]) => Tensor>();

/** The activation of plain experts. */
export function activate(kind: ExpertActivation, x: Tensor): Tensor {
  const name = activationName(kind);
  if (name === "identity") return x;
  let op = ops.get(name);
  if (!op) {
    const expr = activationExpr("experts", name);
    ops.set(name, (op = elementwise(name, ["x"], () => expr)));
  }
  return op(x);
}

const units = new Map<Expr, (...args: Tensor[]) => Tensor>();

/** The gated unit of two products, in one pass. */
export function gated(gate: Gate, x: Tensor, up: Tensor): Tensor {
  const unit = unitOf("experts", gate);
  let op = units.get(unit);
  if (!op) units.set(unit, (op = elementwise(gate.gluKind ?? "swiglu", ["x", "up"], () => unit)));
  return op(x, up);
}

/**
 * Each sorted row through its expert: rows [choices, dim] -> [choices, dim]; offsets u32 [experts + 1] of `dispatch`.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function runExperts(rows: Tensor, experts: Experts, offsets: Tensor): Tensor {
  const caller = "runExperts";
  expectShape(caller, "rows", rows, ["choices", "dim"]);
  const count = expertCount(caller, experts, rows.shape[1]!);
  expectShape(caller, "offsets", offsets, [count + 1]);
  expectDType(caller, "offsets", offsets, "u32");
  if (experts.kind === "ffn") {
    const { w1, w2, b1, b2, activation = "relu" } = experts;
    return groupedMatmul(activate(activation, groupedMatmul(rows, w1, offsets, { bias: b1 })), w2, offsets, {
      bias: b2,
    });
  }
  const { wGate, wUp, wDown, bGate, bUp, bDown } = experts;
  const hidden = gated(
    experts,
    groupedMatmul(rows, wGate, offsets, { bias: bGate }),
    groupedMatmul(rows, wUp, offsets, { bias: bUp }),
  );
  return groupedMatmul(hidden, wDown, offsets, { bias: bDown });
}

/**
 * out[t] = sum_k weights[t, k] expert_{indices[t, k]}(x[t]): tokens are sorted by expert, each expert multiplies its own
 * rows, and the results go back. An index below 0 is a choice that was dropped. A few tokens without a gradient
 * (decoding) read their experts' weights directly.
 *
 * x [..., dim], indices i32 and weights f32 [..., k] with the same leading axes; the result is in the shape of x.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function mixExperts(x: Tensor, experts: Experts, indices: Tensor, weights: Tensor): Tensor {
  const caller = "mixExperts";
  expectTensors(caller, { x, indices, weights });
  const dim = x.shape.at(-1) ?? 0;
  const count = expertCount(caller, experts, dim);
  expectChoices(caller, indices, weights);
  expectShape(caller, "indices", indices, [...x.shape.slice(0, -1), null]);
  const stacks = Object.values(experts).filter((value): value is Tensor => Tensor.isInstance(value));
  const few =
    indices.size <= FEW_CHOICES &&
    x.dtype === "f32" &&
    weights.dtype === "f32" &&
    !stacks.some((t) => t.stored);
  return x.gpu.scope(() => {
    const tokens = x.reshape([x.size / dim, dim]);
    const ofTokens = (t: Tensor): Tensor => t.reshape([tokens.shape[0]!, t.shape.at(-1)!]);
    const [choices, shares] = [ofTokens(indices), ofTokens(weights)];
    if (few && new Set(stacks.map((t) => t.dtype)).size === 1 && !isTracked([x, weights, ...stacks]))
      return mixFew(tokens, experts, choices, shares).reshape(x.shape);
    const plan = dispatch(choices, count);
    const y = runExperts(gatherTokens(tokens, plan), experts, plan.offsets);
    return combine(y, shares, plan).reshape(x.shape);
  });
}
