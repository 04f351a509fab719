import { integer, oneOf, Tensor, value } from "@x/kernels";

/** Options of a call with a state that say where its tokens stand. */
export const POSITION_FIELDS = {
  positions: value(
    "With a state: where the tokens stand, a list or i32 [batch, seq]; default: they follow what the state holds.",
    "a list of positions, or a tensor",
    (given: unknown): given is ArrayLike<number> | Tensor =>
      Array.isArray(given) || ArrayBuffer.isView(given) || Tensor.isInstance(given),
    { optional: true },
  ),
  textLength: integer(
    "With a state: tokens of the whole text that the call belongs to; default: counted. Needed where positions are on " +
      "the device and the rotation depends on it.",
    { min: 1, optional: true },
  ),
};

/** The size of a state that grows with the text. */
export const STATE_FIELDS = {
  batch: integer("Number of sequences.", { min: 1 }),
  maxLength: integer("Tokens of the longest sequence.", { min: 1 }),
  dtype: oneOf("Storage type.", ["f32", "f16"], { default: "f32" }),
};
