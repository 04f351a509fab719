import { TRANSPOSED } from "../change.js";
import { count, f32, TANH_GELU, tensor, u32, withBias, type Architecture } from "./architecture.js";

const LAYER = "transformer.h.{n}";

/** The folder's matrices are [in, out]. */
export const gpt2: Architecture = {
  name: "gpt2",
  families: { gpt2: "GPT2LMHeadModel" },
  keys: [
    u32("context_length", "n_positions"),
    u32("embedding_length", "n_embd"),
    u32("block_count", "n_layer"),
    u32("attention.head_count", "n_head"),
    f32("attention.layer_norm_epsilon", "layer_norm_epsilon"),
  ],
  tensors: {
    "token_embd.weight": tensor("transformer.wte.weight"),
    "position_embd.weight": tensor("transformer.wpe.weight"),
    "output.weight": tensor("lm_head.weight"),
    ...withBias("output_norm", "transformer.ln_f"),
    ...withBias("blk.{n}.attn_norm", `${LAYER}.ln_1`),
    ...withBias("blk.{n}.attn_qkv", `${LAYER}.attn.c_attn`, TRANSPOSED),
    ...withBias("blk.{n}.attn_output", `${LAYER}.attn.c_proj`, TRANSPOSED),
    ...withBias("blk.{n}.ffn_norm", `${LAYER}.ln_2`),
    ...withBias("blk.{n}.ffn_up", `${LAYER}.mlp.c_fc`, TRANSPOSED),
    ...withBias("blk.{n}.ffn_down", `${LAYER}.mlp.c_proj`, TRANSPOSED),
  },
  tied: true,
  rotates: false,
  ignored: /\.attn\.(masked_)?bias$/,
  fixed: { activation_function: TANH_GELU },
  config: ({ fields }) => ({
    n_inner: fields.integer("feed_forward_length", 4 * fields.integer("embedding_length")),
    activation_function: "gelu_new",
  }),
  metadata: (config) => ({
    feed_forward_length: count((config["n_inner"] as number | null) ?? 4 * (config["n_embd"] as number)),
  }),
};
