import { defineKernel, expectTensor, grid1d, linear, noGrad, type Tensor, flatMain } from "@x/kernels";
import { activationName } from "../experts/expert_weights.js";
import { peer, type PeerOptions, type PeerWeights } from "./peer.js";

/** out[t, e] = hidden[t, e] times the sum of the weights of e among the choices of t; a thread has a token. */
const sharesKernel = defineKernel({
  name: "peerKeys",
  bindings: { hidden: "read f32", indices: "read i32", shares: "read f32", out: "read_write f32" },
  params: { tokens: "u32", chosen: "u32", experts: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("t", "params.tokens")}
  for (var c = t * params.chosen; c < (t + 1u) * params.chosen; c++) {
    let at = t * params.experts + u32(indices[c]);
    out[at] += shares[c] * hidden[at];
  }
}`,
});

/**
 * A PEER layer read as a memory whose values are the rows of `expertUp`: the coefficient of every expert,
 * m_e = sum over the heads that retrieved e of w act(u_e . x), 0 for the others, so that out = m expertUp. Dense, for
 * looking at; the layer itself computes the retrieved ones alone. No gradient.
 *
 * x [..., dim]; result [..., n^2].
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function peerKeys(x: Tensor, weights: PeerWeights, options: PeerOptions): Tensor {
  expectTensor("peerKeys", "x", x);
  const { gpu } = x;
  return noGrad(() =>
    gpu.scope(() => {
      const { indices, weights: shares } = peer(x, weights, options);
      const dim = x.shape.at(-1)!;
      const rows = x.reshape([x.size / dim, dim]);
      const name = activationName(options.activation ?? "gelu");
      const hidden = linear(rows, weights.expertDown, undefined, { activation: name });
      const [tokens, experts] = hidden.shape as [number, number];
      const out = gpu.zeros([...x.shape.slice(0, -1), experts]);
      gpu.run(sharesKernel, {
        bindings: { hidden, indices, shares, out },
        params: { tokens, chosen: indices.size / tokens, experts },
        workgroups: grid1d(Math.ceil(tokens / 64)),
      });
      return out;
    }),
  );
}
