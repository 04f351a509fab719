import { sumMiddle, sumToShape, type Tensor } from "@x/kernels";
import type { Problem } from "./problem.js";

/** Sums of ds before the terms after number `after`: by row of a table along queries or keys, or the matrix itself. */
export type Collect = (
  after: number,
  line: "row" | "column" | "dense",
  shape: readonly number[],
  index?: { readonly tensor: Tensor; readonly min: number },
) => Tensor;

/** Gradients of a call's bias and of its relative terms, where they are needed. */
export function termGradients(
  { batch, heads, queries, keys, variant, relatives }: Problem,
  bias: Tensor | undefined,
  needs: { readonly bias: boolean; readonly relatives: readonly boolean[] },
  collect: Collect,
): { readonly bias: Tensor | undefined; readonly relatives: (Tensor | undefined)[] } {
  return {
    bias:
      bias && needs.bias
        ? sumToShape(collect(variant.terms.length - 1, "dense", [batch, heads, queries, keys]), bias.shape)
        : undefined,
    relatives: relatives.map(({ term, modifier, table }, i) => {
      if (!needs.relatives[i]) return undefined;
      const { axes, index, tensor } = modifier;
      if (axes === "bhk") return collect(term, "column", tensor.shape, table);
      const lines = collect(term, "row", [batch, heads, queries, index.rows], table);
      if (axes === "bhq") return lines;
      return sumMiddle(
        sumMiddle(lines, batch * heads, queries, index.rows),
        1,
        batch,
        heads * index.rows,
      ).alias(tensor.shape);
    }),
  };
}
