import type { Family } from "../declaration/family.js";
import {
  attention,
  fusedQkv,
  gatedFfn,
  inTurn,
  QKV,
  rmsNorm,
  rope,
  windowOf,
} from "../declaration/fragments.js";
import { LLAMA_DEFAULTS } from "./llama.js";

export const phi3: Family = {
  title: "Phi-3, Phi-3.5, Phi-4 mini",
  defaults: {
    ...LLAMA_DEFAULTS,
    vocab_size: 32_064,
    hidden_size: 3072,
    intermediate_size: 8192,
    max_position_embeddings: 4096,
    original_max_position_embeddings: 4096,
    norm_eps: 1e-5,
    eos_token_id: 32_000,
  },
  decoder: (f) => {
    const window = windowOf(f, () => true);
    return {
      norm: rmsNorm(f),
      block: (layer) => ({
        mixer: attention(f, { window: window(layer) }),
        ffn: gatedFfn(f),
        position: rope(f),
      }),
    };
  },
  tensors: (f) => {
    const hidden = f.integer("intermediate_size");
    return {
      layer: [
        ["self_attn.qkv_proj", QKV, { rows: fusedQkv(f) }],
        ["mlp.gate_up_proj", ["mlp.gate_proj", "mlp.up_proj"], { rows: inTurn(hidden, hidden) }],
      ],
    };
  },
};
