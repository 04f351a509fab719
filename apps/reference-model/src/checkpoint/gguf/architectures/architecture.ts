import type { Fields } from "../../../config/index.js";
import { KEY_HEADS, QUERY_HEADS, type Change } from "../change.js";

export type Json = Readonly<Record<string, unknown>>;

/** What a GGUF file says, as its architecture asks for it. */
export interface GgufFacts {
  /** Metadata below the architecture's name: "block_count". */
  readonly fields: Fields;
  has(tensor: string): boolean;
  /** Layers that have such a tensor, by its name below "blk.N.". */
  layersWith(tensor: string): readonly number[];
  /** The tensor's numbers, or undefined where there is no such tensor. */
  numbers(tensor: string): Promise<number[] | undefined>;
}

/** A value of metadata to be written, with the type that readers expect. */
export type WrittenValue =
  | { readonly type: "u32" | "i32" | "f32"; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "strings"; readonly value: readonly string[] }
  | { readonly type: "f32s" | "i32s"; readonly value: readonly number[] };

/** A key of the metadata that says the same as one of config.json. */
export interface SharedKey {
  /** Below the architecture's name. */
  readonly gguf: string;
  readonly own: string;
  readonly type: "u32" | "f32";
  /** Files may lack it. */
  readonly optional?: boolean;
}

export interface TensorRule {
  /** In a Hugging Face folder, with `{n}` for the layer and `{e}` for the expert. */
  readonly own: string;
  readonly change?: Change;
}

/** An architecture of llama.cpp: how its metadata and tensors are those of families of Hugging Face folders. */
export interface Architecture {
  /** `general.architecture` */
  readonly name: string;
  /** `model_type` of the families, with the class that transformers has for each. */
  readonly families: Readonly<Record<string, string>>;
  readonly keys: readonly SharedKey[];
  /** Tensors by their names in GGUF, with `{n}` for the layer. The first rule of a folder's name writes it. */
  readonly tensors: Readonly<Record<string, TensorRule>>;
  /** What config.json says besides the shared keys; `model_type` among it where there are several families. */
  readonly config: (facts: GgufFacts) => Json | Promise<Json>;
  /** Metadata besides the shared keys, below the architecture's name. */
  readonly metadata: (config: Json) => Readonly<Record<string, WrittenValue>>;
  /** Values of config.json that the architecture computes, by key; a model with another value is not written. */
  readonly fixed?: Readonly<Record<string, readonly unknown[]>>;
  /** What llama.cpp computes otherwise than the model. */
  readonly differs?: (config: Json) => readonly string[];
  /** Whether the output matrix is the embedding where config.json does not say. */
  readonly tied?: true;
  /** Tensors of folders that are no weights. */
  readonly ignored?: RegExp;
  /** False where nothing is rotated. */
  readonly rotates?: false;
  /** The layers whose rotations have keys in GGUF, where layers differ. */
  readonly layerType?: string;
}

/** Activations of gated blocks that are named in several ways. */
export const SILU = ["silu", "swish"];
export const TANH_GELU = ["gelu_pytorch_tanh", "gelu_new"];

export const u32 = (gguf: string, own: string, optional = false): SharedKey => ({
  gguf,
  own,
  type: "u32",
  optional,
});
export const f32 = (gguf: string, own: string, optional = false): SharedKey => ({
  gguf,
  own,
  type: "f32",
  optional,
});
export const count = (value: number): WrittenValue => ({ type: "u32", value });
export const real = (value: number): WrittenValue => ({ type: "f32", value });

/** Keys of decoders with attention, RMS norms and rotations. */
export const DECODER_KEYS: readonly SharedKey[] = [
  u32("context_length", "max_position_embeddings"),
  u32("embedding_length", "hidden_size"),
  u32("block_count", "num_hidden_layers"),
  u32("feed_forward_length", "intermediate_size"),
  u32("attention.head_count", "num_attention_heads"),
  u32("attention.head_count_kv", "num_key_value_heads", true),
  f32("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
  f32("rope.freq_base", "rope_theta", true),
];

const rule = (own: string, change?: Change): TensorRule => (change ? { own, change } : { own });
export const tensor = rule;

/** A layer's tensor with its bias, by GGUF's name and the folder's. */
export function withBias(gguf: string, own: string, change?: Change): Record<string, TensorRule> {
  return {
    [`${gguf}.weight`]: rule(`${own}.weight`, change),
    [`${gguf}.bias`]: rule(`${own}.bias`, change?.kind === "transposed" ? undefined : change),
  };
}

/** Embedding, output matrix and last norm. */
export const outer = (norm?: Change): Record<string, TensorRule> => ({
  "token_embd.weight": rule("model.embed_tokens.weight"),
  "output.weight": rule("lm_head.weight"),
  "output_norm.weight": rule("model.norm.weight", norm),
});

/** Separate projections of attention; `reordered` where GGUF rotates neighbours and the folder halves. */
export function attentionTensors(reordered: boolean): Record<string, TensorRule> {
  const at = "model.layers.{n}.self_attn.";
  return {
    ...withBias("blk.{n}.attn_q", `${at}q_proj`, reordered ? QUERY_HEADS : undefined),
    ...withBias("blk.{n}.attn_k", `${at}k_proj`, reordered ? KEY_HEADS : undefined),
    ...withBias("blk.{n}.attn_v", `${at}v_proj`),
    ...withBias("blk.{n}.attn_output", `${at}o_proj`),
  };
}

/** A gated feed-forward block of three matrices. */
export const GATED_TENSORS: Readonly<Record<string, TensorRule>> = {
  ...withBias("blk.{n}.ffn_gate", "model.layers.{n}.mlp.gate_proj"),
  ...withBias("blk.{n}.ffn_up", "model.layers.{n}.mlp.up_proj"),
  ...withBias("blk.{n}.ffn_down", "model.layers.{n}.mlp.down_proj"),
};

/** The norms before attention and before the feed-forward block. */
export const PRE_NORMS: Readonly<Record<string, TensorRule>> = {
  "blk.{n}.attn_norm.weight": rule("model.layers.{n}.input_layernorm.weight"),
  "blk.{n}.ffn_norm.weight": rule("model.layers.{n}.post_attention_layernorm.weight"),
};
