import { e, elementwise, expectShape, expectTensors, linear, mul, sum, type Tensor } from "@x/kernels";
import { expectChoices } from "../router/choices.js";
import { expertCount, type Experts } from "./expert_weights.js";
import { activate, gated } from "./experts.js";

const shareOfExpert = elementwise("expertShare", ["index", "weight", "expert"], (index, weight, expert) =>
  e.mul(e.eq(index, expert), weight),
);

/** The hidden units of all experts side by side, [tokens, experts * hidden]. */
function hiddenUnits(rows: Tensor, experts: Experts, units: number): Tensor {
  const product = (w: Tensor, b?: Tensor): Tensor =>
    linear(rows, w.reshape([units, w.shape[2]!]), b?.reshape([units]));
  if (experts.kind === "glu")
    return gated(experts, product(experts.wGate, experts.bGate), product(experts.wUp, experts.bUp));
  return activate(experts.activation ?? "relu", product(experts.w1, experts.b1));
}

/**
 * A mixture read as a memory whose values are the columns of the experts' last matrices, side by side: each expert's
 * hidden units times the weight that the token gives the expert, 0 for an expert that was not chosen, so that, biases
 * of those matrices aside, the mixture is one product of these coefficients and the values. Dense, for looking at; the layer itself computes
 * the chosen experts alone.
 *
 * x [..., dim], indices i32 and weights f32 [..., k] with the same leading axes; result [..., experts * hidden].
 * Geva et al. 2021, arXiv:2012.14913.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function expertKeys(x: Tensor, experts: Experts, indices: Tensor, weights: Tensor): Tensor {
  const caller = "expertKeys";
  expectTensors(caller, { x, indices, weights });
  const dim = x.shape.at(-1) ?? 0;
  const count = expertCount(caller, experts, dim);
  const k = expectChoices(caller, indices, weights);
  expectShape(caller, "indices", indices, [...x.shape.slice(0, -1), null]);
  const { gpu } = x;
  const hidden = (experts.kind === "glu" ? experts.wGate : experts.w1).shape[1]!;
  const tokens = x.size / dim;
  return gpu.scope(() => {
    const numbers = gpu.tensor(
      Array.from({ length: count }, (_, i) => i),
      [count, 1],
      "i32",
    );
    const ofChoice = (t: Tensor): Tensor => t.reshape([tokens, 1, k]);
    const shares = sum(shareOfExpert(ofChoice(indices), ofChoice(weights), numbers), {
      axes: -1,
      keepDims: true,
    }); // [tokens, experts, 1]
    const units = hiddenUnits(x.reshape([tokens, dim]), experts, count * hidden);
    return mul(units.reshape([tokens, count, hidden]), shares).reshape([
      ...x.shape.slice(0, -1),
      count * hidden,
    ]);
  });
}
