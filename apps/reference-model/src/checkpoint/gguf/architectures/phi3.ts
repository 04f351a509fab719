import { count, DECODER_KEYS, outer, PRE_NORMS, SILU, tensor, type Architecture } from "./architecture.js";
import { ropeConfig, ropeMetadata, ropeTensors } from "./rope.js";

const LAYER = "model.layers.{n}";

/** Queries, keys and values are one matrix, and so are gate and up, in the order of the folder. */
export const phi3: Architecture = {
  name: "phi3",
  families: { phi3: "Phi3ForCausalLM" },
  keys: DECODER_KEYS,
  tensors: {
    ...outer(),
    ...PRE_NORMS,
    "blk.{n}.attn_qkv.weight": tensor(`${LAYER}.self_attn.qkv_proj.weight`),
    "blk.{n}.attn_output.weight": tensor(`${LAYER}.self_attn.o_proj.weight`),
    "blk.{n}.ffn_up.weight": tensor(`${LAYER}.mlp.gate_up_proj.weight`),
    "blk.{n}.ffn_down.weight": tensor(`${LAYER}.mlp.down_proj.weight`),
  },
  fixed: { hidden_act: SILU },
  differs: (config) =>
    Object.keys(ropeTensors(config)).length === 0
      ? []
      : [
          "llama.cpp chooses between short and long factors by the size of its context, not by the length of a text",
        ],
  config: async (facts) => {
    const { fields } = facts;
    const window = fields.optionalInteger("attention.sliding_window", 0) ?? 0;
    return {
      ...(await ropeConfig(facts)),
      original_max_position_embeddings: fields.integer(
        "rope.scaling.original_context_length",
        fields.integer("context_length"),
      ),
      sliding_window: window > 0 ? window : null,
    };
  },
  metadata: (config) => ({
    ...ropeMetadata(config),
    "rope.scaling.original_context_length": count(
      (config["original_max_position_embeddings"] ?? config["max_position_embeddings"]) as number,
    ),
    // Zero tells llama.cpp that there is no window.
    "attention.sliding_window": count((config["sliding_window"] as number | null) ?? 0),
  }),
};
