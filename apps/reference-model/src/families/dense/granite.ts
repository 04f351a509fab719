import type { Family } from "../declaration/family.js";
import { attention, gatedFfn, rmsNorm, rope } from "../declaration/fragments.js";
import { attentionBias, LLAMA_DEFAULTS } from "./llama.js";

export const granite: Family = {
  title: "Granite 3",
  defaults: {
    ...LLAMA_DEFAULTS,
    embedding_multiplier: 1,
    attention_multiplier: 1,
    residual_multiplier: 1,
    logits_scaling: 1,
  },
  decoder: (f) => ({
    norm: rmsNorm(f),
    embedScale: f.number("embedding_multiplier"),
    logitScale: 1 / f.number("logits_scaling", undefined, Number.MIN_VALUE),
    block: () => ({
      mixer: attention(f, { ...attentionBias(f), scale: f.number("attention_multiplier") }),
      ffn: gatedFfn(f, f.flag("mlp_bias", false)),
      position: rope(f),
      branchScale: f.number("residual_multiplier"),
    }),
  }),
};
