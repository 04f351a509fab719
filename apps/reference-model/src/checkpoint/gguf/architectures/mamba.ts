import { MINUS_EXP, SQUEEZED } from "../change.js";
import { count, f32, SILU, tensor, u32, type Architecture } from "./architecture.js";

const LAYER = "backbone.layers.{n}";
const MIXER = `${LAYER}.mixer`;

export const mamba: Architecture = {
  name: "mamba",
  families: { mamba: "MambaForCausalLM" },
  keys: [
    u32("embedding_length", "hidden_size"),
    u32("block_count", "num_hidden_layers"),
    u32("ssm.conv_kernel", "conv_kernel"),
    u32("ssm.inner_size", "intermediate_size"),
    u32("ssm.state_size", "state_size"),
    u32("ssm.time_step_rank", "time_step_rank"),
    f32("attention.layer_norm_rms_epsilon", "layer_norm_epsilon"),
  ],
  tensors: {
    "token_embd.weight": tensor("backbone.embeddings.weight"),
    "output.weight": tensor("lm_head.weight"),
    "output_norm.weight": tensor("backbone.norm_f.weight"),
    "blk.{n}.attn_norm.weight": tensor(`${LAYER}.norm.weight`),
    "blk.{n}.ssm_in.weight": tensor(`${MIXER}.in_proj.weight`),
    "blk.{n}.ssm_conv1d.weight": tensor(`${MIXER}.conv1d.weight`, SQUEEZED),
    "blk.{n}.ssm_conv1d.bias": tensor(`${MIXER}.conv1d.bias`),
    "blk.{n}.ssm_x.weight": tensor(`${MIXER}.x_proj.weight`),
    "blk.{n}.ssm_dt.weight": tensor(`${MIXER}.dt_proj.weight`),
    "blk.{n}.ssm_dt.bias": tensor(`${MIXER}.dt_proj.bias`),
    "blk.{n}.ssm_a": tensor(`${MIXER}.A_log`, MINUS_EXP),
    "blk.{n}.ssm_d": tensor(`${MIXER}.D`),
    "blk.{n}.ssm_out.weight": tensor(`${MIXER}.out_proj.weight`),
  },
  tied: true,
  rotates: false,
  fixed: { hidden_act: SILU, use_bias: [false], use_conv_bias: [true] },
  config: ({ fields }) => ({
    expand: fields.integer("ssm.inner_size") / fields.integer("embedding_length"),
    hidden_act: "silu",
    use_bias: false,
    use_conv_bias: true,
  }),
  // What llama.cpp expects of every model.
  metadata: () => ({
    context_length: count(2 ** 20),
    feed_forward_length: count(0),
    "attention.head_count": count(0),
  }),
};
