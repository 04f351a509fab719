import { ffnKeys, gluKeys } from "@x/ffn";
import { concat, e, elementwise, mul, slice, sum, transpose, type Tensor } from "@x/kernels";
import type { Experts } from "@x/moe";
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

/** Coefficients of the keys of experts side by side: [tokens, experts * hidden]. */
function coefficientsOf(rows: Tensor, experts: Experts, width: number): Tensor {
  const flat = (w: Tensor): Tensor => w.reshape([width, w.shape[2]!]);
  if (experts.kind === "glu")
    return gluKeys(rows, { wGate: flat(experts.wGate), wUp: flat(experts.wUp) }, experts.gluKind)
      .coefficients;
  return ffnKeys(rows, { w1: flat(experts.w1) }, experts.activation).coefficients;
}

/** What a mixture's router gives for tokens [1, tokens, dim]: experts and their shares, 0 where one is not asked. */
type Route = (x: Tensor) => { readonly indices: Tensor; readonly weights: Tensor };

/** Experts that see every token, as one gated block beside the others. */
interface SharedExperts {
  readonly wGate: Tensor;
  readonly wUp: Tensor;
  /** [dim, shared hidden] */
  readonly wDown: Tensor;
}

/**
 * The memory of a mixture: the experts' values side by side, those of shared experts last. A token's key holds the
 * coefficients of the experts that it is sent to, times their shares, and 0 for the others, so that the mixture is one
 * product.
 */
export function expertMemory(experts: Experts, route: Route, shared?: SharedExperts): BlockMemory {
  const last = experts.kind === "glu" ? experts.wDown : experts.w2;
  const { gpu } = last;
  const [count = 0, dim = 0, hidden = 0] = last.shape;
  const width = count * hidden;
  const extra = shared?.wDown.shape[1] ?? 0;
  return {
    keys: (x) =>
      gpu.scope(() => {
        const rows = x.reshape([x.size / dim, dim]);
        const tokens = rows.shape[0]!;
        const { indices, weights } = route(rows.reshape([1, tokens, dim]));
        const numbers = gpu.tensor(
          Array.from({ length: count }, (_, i) => i),
          [count, 1],
          "i32",
        );
        const perChoice = (t: Tensor): Tensor => t.reshape([tokens, 1, t.size / tokens]);
        const shares = sum(chosen(perChoice(indices), perChoice(weights), numbers), {
          axes: -1,
          keepDims: true,
        }); // [tokens, experts, 1]
        const routed = mul(coefficientsOf(rows, experts, width).reshape([tokens, count, hidden]), shares);
        const m = routed.reshape([tokens, width]);
        const all = shared ? concat([m, gluKeys(rows, shared).coefficients], 1) : m;
        return all.reshape([...x.shape.slice(0, -1), width + extra]);
      }),
    values: () =>
      gpu.scope(() => {
        const routed = transpose(last, [1, 0, 2]).reshape([dim, width]);
        return shared ? concat([routed, shared.wDown], 1) : routed;
      }),
    write: (values) => {
      gpu.scope(() => {
        const routed = slice(values, { axis: 1, end: width }).reshape([dim, count, hidden]);
        gpu.copy(transpose(routed, [1, 0, 2]), last);
        if (shared) gpu.copy(slice(values, { axis: 1, start: width }), shared.wDown);
      });
    },
    experts: count + extra / hidden,
  };
}

/** The memory of PEER: each of its experts is a key and a value, a row of `expertUp`. */
export function peerMemory(expertUp: Tensor, keys: (x: Tensor) => Tensor): BlockMemory {
  return {
    keys,
    values: () => transpose(expertUp),
    write: (values) => {
      expertUp.gpu.scope(() => {
        expertUp.gpu.copy(transpose(values), expertUp);
      });
    },
    experts: 1,
  };
}
