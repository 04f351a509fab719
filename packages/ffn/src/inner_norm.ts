import { schema, Tensor, value, type ComponentPart, type Config } from "@x/kernels";

/** A norm of the hidden features: any component of @x/norm, or one of your own. */
export interface InnerNorm extends ComponentPart {
  /** x [..., hidden] to the same shape; `options` is what the block's forward pass was given as `normOptions`. */
  forward(x: Tensor, options?: object): Tensor;
}

function isNorm(given: unknown): given is InnerNorm {
  if (typeof given !== "object" || given === null) return false;
  return ["forward", "parameters"].every((name) => typeof Reflect.get(given, name) === "function");
}

/** What a feed-forward block may be made with besides its parameters. */
export const PARTS = schema("FeedForward", {
  ffn_layernorm: value(
    "Norm of the hidden features before the output projection (Sub-LN, NormFormer).",
    "a component with forward and parameters",
    isNorm,
    { optional: true },
  ),
});
/** Parts of a feed-forward block under the names that checkpoints give them (torchscale's ffn_layernorm). */
export type FeedForwardParts = Config<typeof PARTS>;

const isOptions = (given: unknown): given is object =>
  typeof given === "object" && given !== null && !Array.isArray(given) && !Tensor.isInstance(given);

/** Options of a block's forward pass that go to its inner norm. */
export const NORM_OPTIONS = {
  normOptions: value("Given to the inner norm's forward pass.", "an object", isOptions, { optional: true }),
};
