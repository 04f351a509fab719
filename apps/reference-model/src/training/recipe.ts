import { gluHiddenDim } from "@x/ffn";
import { ConfigError, integer, schema, type Resolved } from "@x/kernels";

/** The shape of a model of the current recipe. */
export const RECIPE = schema("recipe", {
  dim: integer("width", { min: 1, default: 96 }),
  layers: integer("decoder blocks", { min: 1, default: 4 }),
  heads: integer("query heads", { min: 1, default: 6 }),
  kvHeads: integer("key and value heads", { min: 1, default: 2 }),
  hiddenDim: integer(
    "width of a feed-forward block or expert; 0: two thirds of 4 dim, over the experts that are used",
    { min: 0, default: 0 },
  ),
  experts: integer("experts of a block; 0: a dense block", { min: 0, default: 4 }),
  expertsPerToken: integer("experts that a token uses", { min: 1, default: 2 }),
  window: integer("keys that a query sees; 0: all", { min: 0, default: 64 }),
  maxLength: integer("longest sequence", { min: 1, default: 512 }),
});
export type RecipeOptions = Resolved<typeof RECIPE>;

export const RECIPE_DEFAULTS: RecipeOptions = RECIPE.read({});

/**
 * The recipe as a public config.json: RoPE, pre-norm RMSNorm, SwiGLU, GQA, sliding windows, and a mixture of experts
 * (type mixtral; without experts mistral, without a window too llama).
 *
 * @throws ConfigError
 */
export function recipe(options: RecipeOptions): Record<string, unknown> {
  const who = RECIPE.name;
  const { dim, layers, heads, kvHeads, experts, expertsPerToken, window, maxLength } = RECIPE.read(options);
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
