import { MISTRAL_DEFAULTS } from "../dense/mistral.js";
import { attentionBias } from "../dense/llama.js";
import type { Family, FamilyConfig } from "../declaration/family.js";
import type { TensorTable } from "../declaration/tensor_names.js";
import { attention, gluKind, rmsNorm, rope, windows } from "../declaration/fragments.js";

/** Numbers of experts, and of those that a token has. */
export function expertCounts(f: FamilyConfig): { numExperts: number; topK: number } {
  const numExperts = f.integer("num_local_experts");
  const topK = f.integer("num_experts_per_tok");
  if (topK > numExperts)
    f.fail("num_experts_per_tok", `is ${topK}; it must not exceed the number of experts, ${numExperts}`);
  return { numExperts, topK };
}

/** Names of Mixtral's experts; models of parts have them too. */
export const MIXTRAL_TENSORS: TensorTable = {
  layer: [
    ["block_sparse_moe.experts.#.w1.weight", "block_sparse_moe.experts.gate_proj"],
    ["block_sparse_moe.experts.#.w3.weight", "block_sparse_moe.experts.up_proj"],
    ["block_sparse_moe.experts.#.w2.weight", "block_sparse_moe.experts.down_proj"],
  ],
};

export const mixtral: Family = {
  title: "Mixtral 8x7B and 8x22B",
  defaults: {
    ...MISTRAL_DEFAULTS,
    rope_theta: 1e6,
    norm_eps: 1e-5,
    num_local_experts: 8,
    num_experts_per_tok: 2,
    router_aux_loss_coef: 0.001,
  },
  decoder: (f) => {
    const window = windows(f, () => true);
    return {
      norm: rmsNorm(f),
      balanceLoss: f.number("router_aux_loss_coef", 0),
      block: (layer) => ({
        mixer: attention(f, { ...attentionBias(f), window: window(layer) }),
        ffn: {
          type: "mixtral",
          hiddenDim: f.integer("intermediate_size"),
          ...expertCounts(f),
          gluKind: gluKind(f),
        },
        position: rope(f),
      }),
    };
  },
  tensors: () => MIXTRAL_TENSORS,
};
