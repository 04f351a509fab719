import { concat, slice, transpose, type Tensor } from "@x/kernels";
import type { Experts, SharedExperts } from "@x/moe";
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

/** A mixture whose layer gives the coefficients of its experts' last matrices. */
export interface StackedExperts {
  readonly experts: Experts;
  readonly shared?: SharedExperts | undefined;
  coefficients(x: Tensor): Tensor;
}

/**
 * The memory of a mixture: the experts' values side by side, those of shared experts last. Experts whose last product
 * has a bias are none, since what a token gets of the biases depends on its experts.
 */
export function expertMemory(layer: StackedExperts): BlockMemory | undefined {
  const { experts, shared } = layer;
  if (experts.kind === "glu" ? experts.bDown : experts.b2) return undefined;
  const last = experts.kind === "glu" ? experts.wDown : experts.w2;
  const { gpu } = last;
  const [count = 0, dim = 0, hidden = 0] = last.shape;
  const width = count * hidden;
  return {
    keys: (x) => layer.coefficients(x),
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
    experts: count + (shared?.wDown.shape[1] ?? 0) / hidden,
  };
}

/** The memory of PEER: each of its experts is a key and a value, a row of `expertUp`. */
export function peerMemory(expertUp: Tensor, keys: BlockMemory["keys"]): BlockMemory {
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
