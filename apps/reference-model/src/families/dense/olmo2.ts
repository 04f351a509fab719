import type { Family } from "../declaration/family.js";
import { attention, gatedFfn, rmsNorm, rope } from "../declaration/fragments.js";
import { attentionBias, LLAMA_DEFAULTS } from "./llama.js";

export const olmo2: Family = {
  title: "OLMo 2",
  defaults: {
    ...LLAMA_DEFAULTS,
    vocab_size: 50_304,
    norm_eps: 1e-5,
    bos_token_id: undefined,
    eos_token_id: 50_279,
  },
  decoder: (f) => ({
    norm: rmsNorm(f),
    block: () => ({
      mixer: attention(f, { ...attentionBias(f), qkNorm: { ...rmsNorm(f), scope: "all" } }),
      ffn: gatedFfn(f),
      placement: "resPostNorm",
      position: rope(f),
    }),
  }),
};
