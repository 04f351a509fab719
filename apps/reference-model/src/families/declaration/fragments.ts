import type { ActivationName, GluKind } from "@x/kernels";
import { ropeFromHuggingFace } from "@x/positional";
import type { ComponentSpec } from "../../config/model_config.js";
import type { FamilyConfig } from "./family.js";
import type { Rows } from "./tensor_names.js";

/** Activations by their names in configurations: as that of a plain block, and as that of a gate. */
const ACTIVATIONS: Readonly<Record<string, { readonly plain: ActivationName; readonly gate?: GluKind }>> = {
  silu: { plain: "silu", gate: "swiglu" },
  swish: { plain: "silu", gate: "swiglu" },
  gelu: { plain: "gelu", gate: "geglu" },
  gelu_pytorch_tanh: { plain: "geluTanh", gate: "gegluTanh" },
  gelu_new: { plain: "geluTanh", gate: "gegluTanh" },
  gelu_fast: { plain: "geluTanh", gate: "gegluTanh" },
  relu: { plain: "relu", gate: "reglu" },
  sigmoid: { plain: "sigmoid", gate: "glu" },
  mish: { plain: "mish", gate: "miglu" },
};

function activation(f: FamilyConfig, key = "hidden_act"): { plain: ActivationName; gate?: GluKind } {
  const name = f.oneOf(key, Object.keys(ACTIVATIONS));
  return ACTIVATIONS[name]!;
}

/** The activation of a plain block. */
export const plainActivation = (f: FamilyConfig, key?: string): ActivationName => activation(f, key).plain;

/** The kind of a gated block. */
export function gluKind(f: FamilyConfig, key = "hidden_act"): GluKind {
  const { gate } = activation(f, key);
  return gate ?? f.fail(key, `is ${JSON.stringify(f.get(key))}, which no gated block has`);
}

export interface Heads {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** The heads of attention; without counts of their own, keys have those of queries, and features are divided among all. */
export function heads(f: FamilyConfig): Heads {
  const dim = f.integer("hidden_size");
  const numHeads = f.integer("num_attention_heads");
  const numKvHeads = f.integer("num_key_value_heads", numHeads);
  if (numHeads % numKvHeads !== 0)
    f.fail(
      "num_key_value_heads",
      `is ${numKvHeads}${f.isDefault("num_key_value_heads") ? `, the default of ${f.text("model_type")}` : ""}; it must divide num_attention_heads, ${numHeads}`,
    );
  const own = f.optionalInteger("head_dim");
  if (own === undefined && dim % numHeads !== 0)
    f.fail(
      "hidden_size",
      `is ${dim}; without head_dim it must be a multiple of num_attention_heads, ${numHeads}`,
    );
  return { numHeads, numKvHeads, headDim: own ?? dim / numHeads };
}

/** Attention with what a family adds to it; what is undefined is left out. */
export function attention(f: FamilyConfig, more: Readonly<Record<string, unknown>> = {}): ComponentSpec {
  const given = Object.entries(more).filter(([, value]) => value !== undefined);
  return { type: "attention", ...heads(f), ...Object.fromEntries(given) };
}

/** A gated feed-forward block. */
export const gatedFfn = (f: FamilyConfig, bias = false): ComponentSpec => ({
  type: "glu",
  kind: gluKind(f),
  hiddenDim: f.integer("intermediate_size"),
  bias,
});

/** A feed-forward block of two products. */
export const plainFfn = (
  f: FamilyConfig,
  bias: boolean,
  hiddenDim = f.integer("intermediate_size"),
): ComponentSpec => ({
  type: "ffn",
  activation: plainActivation(f),
  hiddenDim,
  bias,
});

export const rmsNorm = (f: FamilyConfig): ComponentSpec => ({ type: "rms", eps: f.number("norm_eps") });
export const gemmaNorm = (f: FamilyConfig): ComponentSpec => ({ type: "gemma", eps: f.number("norm_eps") });
export const layerNorm = (f: FamilyConfig, bias = true): ComponentSpec => ({
  type: "layer",
  eps: f.number("norm_eps"),
  bias,
});

/** Rotations of a layer; its type chooses among bases where layers differ by it. */
export const rope = (f: FamilyConfig, layerType?: string): ComponentSpec => ({
  type: "rope",
  ...ropeFromHuggingFace(f.source, layerType),
});

/** The type of each layer, where the file lists them. */
export function layerTypes(
  f: FamilyConfig,
  known: readonly string[] = ["full_attention", "sliding_attention"],
): readonly string[] | undefined {
  const given = f.get("layer_types");
  if (given === undefined) return undefined;
  if (
    !Array.isArray(given) ||
    given.length !== f.numLayers ||
    !given.every((type) => known.includes(type as string))
  )
    return f.fail("layer_types", `must list ${f.numLayers} of ${known.join(", ")}`);
  return given as string[];
}

/** The window of the layers that `slides` names. */
export function windowOf(
  f: FamilyConfig,
  slides: (layer: number) => boolean,
): (layer: number) => number | undefined {
  const window = f.optionalInteger("sliding_window");
  return (layer) => (window !== undefined && slides(layer) ? window : undefined);
}

/** The window of each layer: as the file lists the layers, else `otherwise`. */
export function windows(
  f: FamilyConfig,
  otherwise: (layer: number) => boolean,
): (layer: number) => number | undefined {
  const types = layerTypes(f);
  return windowOf(f, types ? (layer) => types[layer] === "sliding_attention" : otherwise);
}

/** Rows of tensors that stand one after the other. */
export function inTurn(...counts: readonly number[]): Rows[] {
  let first = 0;
  return counts.map((count) => {
    const rows: Rows = [[first, count]];
    first += count;
    return rows;
  });
}

/** Rows of tensors that take turns: in each of `groups` the rows of the first, of the second and so on. */
export function inGroups(groups: number, ...counts: readonly number[]): Rows[] {
  const size = counts.reduce((a, b) => a + b, 0);
  return inTurn(...counts).map(([[first, count] = [0, 0]]) =>
    Array.from({ length: groups }, (_, group) => [group * size + first, count] as const),
  );
}

/** Queries, keys and values one after the other in one tensor. */
export function fusedQkv(f: FamilyConfig): Rows[] {
  const { numHeads, numKvHeads, headDim } = heads(f);
  return inTurn(numHeads * headDim, numKvHeads * headDim, numKvHeads * headDim);
}

/** For each key head its queries, the key and the value, in one tensor. */
export function fusedQkvByHead(f: FamilyConfig): Rows[] {
  const { numHeads, numKvHeads, headDim } = heads(f);
  return inGroups(numKvHeads, (numHeads / numKvHeads) * headDim, headDim, headDim);
}

export const QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] as const;
