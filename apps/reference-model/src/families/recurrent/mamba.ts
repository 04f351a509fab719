import type { Family, FamilyConfig } from "../declaration/family.js";
import { rmsNorm } from "../declaration/fragments.js";
import type { TensorTable } from "../declaration/tensor_names.js";

/** Blocks that are a mixer alone, and names that Mamba and Mamba-2 share. */
const MAMBA_TENSORS: TensorTable = {
  prefix: "backbone.",
  root: [
    ["embeddings", "embed_tokens"],
    ["norm_f", "norm"],
  ],
  layer: [
    ["norm", "input_layernorm"],
    ["mixer", "self_attn"],
  ],
};

/** What both versions say of their blocks. */
const block = (f: FamilyConfig) =>
  ({
    convSize: f.integer("conv_kernel"),
    stateSize: f.integer("state_size"),
    bias: f.flag("use_bias", false),
    convBias: f.flag("use_conv_bias", true),
  }) as const;

const MAMBA_DEFAULTS = {
  hidden_act: "silu",
  norm_eps: 1e-5,
  conv_kernel: 4,
  expand: 2,
  use_bias: false,
  use_conv_bias: true,
  // A state has no last position; the models were trained on texts of this length.
  max_position_embeddings: 2048,
} as const;

export const mamba: Family = {
  title: "Mamba",
  defaults: {
    ...MAMBA_DEFAULTS,
    vocab_size: 50_280,
    hidden_size: 768,
    state_size: 16,
    num_hidden_layers: 32,
    time_step_rank: "auto",
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 0,
  },
  decoder: (f) => {
    f.oneOf("hidden_act", ["silu", "swish"]);
    const dim = f.integer("hidden_size");
    const dtRank = f.get("time_step_rank") === "auto" ? Math.ceil(dim / 16) : f.integer("time_step_rank");
    return {
      norm: rmsNorm(f),
      block: () => ({
        mixer: { type: "mamba", innerDim: f.integer("expand") * dim, dtRank, ...block(f) },
        ffn: { type: "none" },
        position: { type: "none" },
      }),
    };
  },
  tensors: () => MAMBA_TENSORS,
};

/** The bounds of the step, where the file gives any. */
function stepBounds(f: FamilyConfig): { readonly dtLimit?: readonly [number, number] } {
  const given = f.get("time_step_limit");
  if (given === undefined) return {};
  if (!Array.isArray(given) || given.length !== 2 || !given.every((x) => typeof x === "number"))
    return f.fail("time_step_limit", `is ${JSON.stringify(given)}; it must list two numbers`);
  return { dtLimit: given as [number, number] };
}

export const mamba2: Family = {
  title: "Mamba-2",
  defaults: {
    ...MAMBA_DEFAULTS,
    vocab_size: 32_768,
    hidden_size: 4096,
    state_size: 128,
    num_hidden_layers: 64,
    num_heads: 128,
    head_dim: 64,
    n_groups: 8,
    chunk_size: 256,
    tie_word_embeddings: false,
    bos_token_id: 0,
    eos_token_id: 2,
  },
  decoder: (f) => {
    f.oneOf("hidden_act", ["silu", "swish"]);
    const [numHeads, headDim] = [f.integer("num_heads"), f.integer("head_dim")];
    const width = f.number("expand") * f.integer("hidden_size");
    if (numHeads * headDim !== width)
      f.fail(
        "num_heads",
        `is ${numHeads}; with head_dim ${headDim} it must make expand hidden_size, ${width}`,
      );
    return {
      norm: rmsNorm(f),
      block: () => ({
        mixer: {
          type: "mamba2",
          numHeads,
          headDim,
          numGroups: f.integer("n_groups"),
          normEps: f.number("norm_eps"),
          chunkSize: f.integer("chunk_size"),
          ...stepBounds(f),
          ...block(f),
        },
        ffn: { type: "none" },
        position: { type: "none" },
      }),
    };
  },
  tensors: () => MAMBA_TENSORS,
};
