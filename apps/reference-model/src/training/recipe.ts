import { gluHiddenDim } from "@x/ffn";
import { ConfigError, expectInteger } from "@x/kernels";

/** The shape of a model of the current recipe. */
export interface RecipeOptions {
  readonly dim: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Width of one feed-forward block or expert; 0: two thirds of 4 dim (over the experts that are used). */
  readonly hiddenDim: number;
  /** Experts and how many a token uses; 0 experts: a dense block. */
  readonly experts: number;
  readonly expertsPerToken: number;
  /** Keys that a query sees; 0: all. */
  readonly window: number;
  readonly maxLength: number;
}

export const RECIPE_DEFAULTS: RecipeOptions = {
  dim: 96,
  layers: 4,
  heads: 6,
  kvHeads: 2,
  hiddenDim: 0,
  experts: 4,
  expertsPerToken: 2,
  window: 64,
  maxLength: 512,
};

/**
 * The recipe as a public config.json: RoPE, pre-norm RMSNorm, SwiGLU, GQA, sliding windows, and a mixture of experts
 * (type mixtral; without experts mistral, without a window too llama).
 *
 * @throws ConfigError
 */
export function recipe(options: RecipeOptions): Record<string, unknown> {
  const who = "recipe";
  for (const [key, value] of Object.entries(options))
    expectInteger(who, key, value, ["hiddenDim", "experts", "window"].includes(key) ? 0 : 1);
  const { dim, layers, heads, kvHeads, experts, expertsPerToken, window, maxLength } = options;
  if (dim % heads !== 0)
    throw new ConfigError(who, `dim is ${dim}; it must be a multiple of heads, ${heads}`);
  const headDim = dim / heads;
  if (headDim % 2 !== 0)
    throw new ConfigError(who, `dim / heads is ${headDim}; rotary embeddings need an even number`);
  const used = experts > 0 ? expertsPerToken : 1;
  const hiddenDim = options.hiddenDim || Math.ceil(gluHiddenDim(dim) / used / 16) * 16;
  const [type, architecture] =
    experts > 0
      ? ["mixtral", "MixtralForCausalLM"]
      : window > 0
        ? ["mistral", "MistralForCausalLM"]
        : ["llama", "LlamaForCausalLM"];
  return {
    architectures: [architecture],
    model_type: type,
    hidden_act: "silu",
    hidden_size: dim,
    intermediate_size: hiddenDim,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    ...(experts > 0
      ? { num_local_experts: experts, num_experts_per_tok: expertsPerToken, router_aux_loss_coef: 0.02 }
      : {}),
    sliding_window: window > 0 ? window : null,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    max_position_embeddings: maxLength,
    tie_word_embeddings: true,
    torch_dtype: "float32",
  };
}
