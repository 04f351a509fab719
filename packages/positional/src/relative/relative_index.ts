import { value, type Field, type RelativeIndex } from "@x/kernels";

/** Whether a value is a map from distances to rows, of any loaded copy of the kernels. */
const isRelativeIndex = (given: unknown): given is RelativeIndex =>
  typeof given === "object" &&
  given !== null &&
  "at" in given &&
  typeof given.at === "function" &&
  "table" in given &&
  typeof given.table === "function" &&
  "rows" in given &&
  typeof given.rows === "number";

/** A map from distances to rows. */
export const relativeIndex = (doc: string): Field<RelativeIndex, "required"> =>
  value(doc, "RelativeIndex", isRelativeIndex);
