import type { ComponentSpec } from "../../config/model_config.js";
import type { EncoderDecoderFamily } from "../declaration/encoder_decoder.js";
import type { FamilyConfig } from "../declaration/family.js";
import { attention, gluKind, plainActivation, rmsNorm } from "../declaration/fragments.js";
import type { TensorRule } from "../declaration/tensor_names.js";

/** The feed-forward block: `feed_forward_proj`, unless the keys that Hugging Face derives from it say otherwise. */
interface FeedForward {
  readonly gated: boolean;
  readonly spec: ComponentSpec;
}

function feedForward(f: FamilyConfig): FeedForward {
  const given = f.text("feed_forward_proj");
  const [, gate, name] =
    /^(gated-)?(\w+)$/.exec(given) ??
    f.fail(
      "feed_forward_proj",
      `is ${JSON.stringify(given)}; it must be an activation such as relu, or gated- and one`,
    );
  const key = f.get("dense_act_fn") === undefined ? "feed_forward_proj" : "dense_act_fn";
  // T5 v1.1 means the form with tanh; the plain block's is the exact one.
  const implied = given === "gated-gelu" ? "gelu_new" : name;
  const own = key === "dense_act_fn" ? f : f.with({ [key]: implied });
  const gated = f.flag("is_gated_act", gate !== undefined);
  const common = { hiddenDim: f.integer("intermediate_size"), bias: false };
  return {
    gated,
    spec: gated
      ? { type: "glu", kind: gluKind(own, key), ...common }
      : { type: "ffn", activation: plainActivation(own, key), ...common },
  };
}

/** Attention without a factor of the scores: the initial weights of T5 have it. */
const heads = (f: FamilyConfig, type: string): ComponentSpec => ({ ...attention(f, { scale: 1 }), type });

const position = (f: FamilyConfig): ComponentSpec => ({
  type: "t5",
  numBuckets: f.integer("relative_attention_num_buckets"),
  maxDistance: f.integer("relative_attention_max_distance"),
});

const ATTENTION = ["q", "k", "v", "o"];
const projections = (from: string, to: string): TensorRule[] =>
  ATTENTION.map((name) => [`${from}.${name}`, `${to}.${name}_proj`]);

/** The rules of a stack whose feed-forward block is sublayer `last` of each block. */
const stack = (f: FamilyConfig, prefix: string, last: number) => ({
  prefix,
  layers: "block",
  root: [
    ["final_layer_norm", "norm"],
    // The first block's table is that of all blocks.
    ["block.0.layer.0.SelfAttention.relative_attention_bias", "positions.0.relative_attention_bias"],
  ] satisfies TensorRule[],
  layer: [
    ...projections("layer.0.SelfAttention", "self_attn"),
    ["layer.0.layer_norm", "input_layernorm"],
    [`layer.${last}.layer_norm`, "post_attention_layernorm"],
    ...(feedForward(f).gated
      ? ([
          [`layer.${last}.DenseReluDense.wi_0`, "mlp.gate_proj"],
          [`layer.${last}.DenseReluDense.wi_1`, "mlp.up_proj"],
          [`layer.${last}.DenseReluDense.wo`, "mlp.down_proj"],
        ] satisfies TensorRule[])
      : ([
          [`layer.${last}.DenseReluDense.wi`, "mlp.c_fc"],
          [`layer.${last}.DenseReluDense.wo`, "mlp.c_proj"],
        ] satisfies TensorRule[])),
  ] satisfies TensorRule[],
});

export const t5: EncoderDecoderFamily = {
  title: "T5, T5 v1.1, Flan-T5, ByT5",
  defaults: {
    vocab_size: 32_128,
    hidden_size: 512,
    head_dim: 64,
    intermediate_size: 2048,
    num_hidden_layers: 6,
    num_attention_heads: 8,
    relative_attention_num_buckets: 32,
    relative_attention_max_distance: 128,
    // Distances have no end; the models were trained on texts of this length.
    max_position_embeddings: 512,
    norm_eps: 1e-6,
    feed_forward_proj: "relu",
    is_encoder_decoder: true,
    tie_word_embeddings: true,
    pad_token_id: 0,
    eos_token_id: 1,
  },
  keys: {
    d_model: "hidden_size",
    d_kv: "head_dim",
    d_ff: "intermediate_size",
    num_layers: "num_hidden_layers",
    num_heads: "num_attention_heads",
    n_positions: "max_position_embeddings",
  },
  encoder: (f) => ({
    norm: rmsNorm(f),
    block: () => ({
      mixer: heads(f, "encoderAttention"),
      ffn: feedForward(f).spec,
      position: position(f),
    }),
  }),
  decoder: (f) => ({
    norm: rmsNorm(f),
    block: () => ({
      mixer: heads(f, "attention"),
      cross: heads(f, "crossAttention"),
      ffn: feedForward(f).spec,
      position: position(f),
    }),
    // Embeddings are as large as those of a stream, too large for a head.
    ...(f.flag("scale_decoder_outputs", f.flag("tie_word_embeddings", true))
      ? { logitScale: f.integer("hidden_size") ** -0.5 }
      : {}),
  }),
  // Configurations with this key call all embeddings tied, those of T5 v1.1 too.
  headIfStored: (f) => f.get("scale_decoder_outputs") !== undefined,
  tensors: (f) => {
    const decoder = stack(f, "decoder.", 2);
    return {
      embedding: "shared",
      embeddingToo: ["encoder.embed_tokens", "decoder.embed_tokens"],
      encoder: stack(f, "encoder.", 1),
      decoder: {
        ...decoder,
        layer: [
          ...decoder.layer,
          ...projections("layer.1.EncDecAttention", "cross_attn"),
          ["layer.1.layer_norm", "cross_attention_layernorm"],
        ],
        // Early T5 files hold a table that nothing reads.
        computed: ["layer.1.EncDecAttention.relative_attention_bias.weight"],
      },
    };
  },
};

/** T5 v1.1 for many languages. */
export const mt5: EncoderDecoderFamily = {
  ...t5,
  title: "mT5",
  defaults: {
    ...t5.defaults,
    vocab_size: 250_112,
    intermediate_size: 1024,
    num_hidden_layers: 8,
    num_attention_heads: 6,
    feed_forward_proj: "gated-gelu",
    tie_word_embeddings: false,
  },
};
