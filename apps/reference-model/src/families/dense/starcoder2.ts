import type { Family } from "../declaration/family.js";
import { attention, layerNorm, plainFfn, rope, windows } from "../declaration/fragments.js";

export const starcoder2: Family = {
  title: "StarCoder2",
  defaults: {
    vocab_size: 49_152,
    hidden_size: 3072,
    intermediate_size: 12_288,
    num_hidden_layers: 30,
    num_attention_heads: 24,
    num_key_value_heads: 2,
    hidden_act: "gelu_pytorch_tanh",
    max_position_embeddings: 4096,
    norm_eps: 1e-5,
    rope_theta: 10_000,
    use_bias: true,
    tie_word_embeddings: true,
    bos_token_id: 50_256,
    eos_token_id: 50_256,
  },
  decoder: (f) => {
    const bias = f.flag("use_bias", true);
    const window = windows(f, () => true);
    return {
      norm: layerNorm(f),
      block: (layer) => ({
        mixer: attention(f, { qkvBias: bias, outBias: bias, window: window(layer) }),
        ffn: plainFfn(f, bias),
        position: rope(f),
      }),
    };
  },
};
