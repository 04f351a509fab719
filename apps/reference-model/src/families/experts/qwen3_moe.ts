import { QWEN_DEFAULTS, qwenWindows } from "../dense/qwen.js";
import { attentionBias } from "../dense/llama.js";
import type { Family, FamilyConfig } from "../declaration/family.js";
import { attention, gatedFfn, gluKind, rmsNorm, rope } from "../declaration/fragments.js";
import { expertCounts } from "./mixtral.js";

/** Layers with experts: every decoder_sparse_step-th, but for those of mlp_only_layers. */
export function sparseLayers(f: FamilyConfig): (layer: number) => boolean {
  const dense = f.ids("mlp_only_layers");
  const step = f.integer("decoder_sparse_step");
  return (layer) => !dense.includes(layer) && (layer + 1) % step === 0;
}

/** Experts weighted by a softmax over all of them, which may be renormalised over those chosen. */
export const softmaxExperts = (f: FamilyConfig) => ({
  type: "qwen2Moe",
  hiddenDim: f.integer("moe_intermediate_size"),
  ...expertCounts(f),
  gluKind: gluKind(f),
  normTopkProb: f.flag("norm_topk_prob", false),
});

export const qwen3Moe: Family = {
  title: "Qwen 3 MoE (30B-A3B, 235B-A22B)",
  defaults: {
    ...QWEN_DEFAULTS,
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 24,
    num_key_value_heads: 4,
    moe_intermediate_size: 768,
    num_experts_per_tok: 8,
    num_local_experts: 128,
    decoder_sparse_step: 1,
    norm_topk_prob: false,
    router_aux_loss_coef: 0.001,
  },
  decoder: (f) => {
    const window = qwenWindows(f);
    const sparse = sparseLayers(f);
    return {
      norm: rmsNorm(f),
      balanceLoss: f.number("router_aux_loss_coef", 0),
      block: (layer) => ({
        mixer: attention(f, { ...attentionBias(f), qkNorm: rmsNorm(f), window: window(layer) }),
        ffn: sparse(layer) ? softmaxExperts(f) : gatedFfn(f),
        position: rope(f),
      }),
    };
  },
};
