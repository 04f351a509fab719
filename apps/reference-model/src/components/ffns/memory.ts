import { gluKeys } from "@x/ffn";
import { e, elementwise, mul, sum, transpose, type Tensor } from "@x/kernels";
import type { GatedExperts, RouterResult } from "@x/moe";
import type { BlockMemory } from "../contract.js";

/** The memory of a block whose last step is w2 [dim, F]. */
export function denseMemory(w2: Tensor, bias: Tensor | undefined, keys: BlockMemory["keys"]): BlockMemory {
  return {
    keys,
    values: () => w2,
    write: (values) => {
      w2.gpu.copy(values, w2);
    },
    bias,
    experts: 1,
  };
}

const chosen = elementwise("expertShare", ["index", "weight", "expert"], (index, weight, expert) =>
  e.mul(e.eq(index, expert), weight),
);

/**
 * The memory of a mixture: the experts' values side by side. A token's key holds the coefficients of the experts that
 * it is sent to, times their shares, and 0 for the others, so that the mixture is one product.
 */
export function expertMemory(
  experts: Pick<GatedExperts, "wGate" | "wUp" | "wDown" | "gluKind">,
  route: (x: Tensor) => Pick<RouterResult, "indices" | "weights">,
): BlockMemory {
  const { wGate, wUp, wDown, gluKind } = experts;
  const [count = 0, dim = 0, hidden = 0] = wDown.shape;
  const width = count * hidden;
  return {
    keys: (x) =>
      x.gpu.scope(() => {
        const rows = x.reshape([x.size / dim, dim]);
        const { indices, weights } = route(rows);
        const numbers = x.gpu.tensor(
          Array.from({ length: count }, (_, i) => i),
          [count, 1],
          "i32",
        );
        const perChoice = (t: Tensor): Tensor => t.reshape([rows.shape[0]!, 1, t.shape.at(-1)!]);
        const shares = sum(chosen(perChoice(indices), perChoice(weights), numbers), {
          axes: -1,
          keepDims: true,
        }); // [tokens, experts, 1]
        const flat = { wGate: wGate.reshape([width, dim]), wUp: wUp.reshape([width, dim]) };
        const { coefficients } = gluKeys(rows, flat, gluKind);
        const m = mul(coefficients.reshape([rows.shape[0]!, count, hidden]), shares);
        return m.reshape([...x.shape.slice(0, -1), width]);
      }),
    values: () => wDown.gpu.scope(() => transpose(wDown, [1, 0, 2]).reshape([dim, width])),
    write: (values) => {
      wDown.gpu.scope(() => {
        wDown.gpu.copy(transpose(values.reshape([dim, count, hidden]), [1, 0, 2]), wDown);
      });
    },
    experts: count,
  };
}
