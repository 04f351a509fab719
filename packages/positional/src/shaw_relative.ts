import {
  add,
  expectInteger,
  matmul,
  RelativeIndex,
  ShapeError,
  showShape,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";

/** Row of each distance: clip(key - query, -m, m) + m. */
export function shawIndex(maxDistance: number): RelativeIndex {
  expectInteger("shawIndex", "maxDistance", maxDistance, 1);
  return new RelativeIndex(
    2 * maxDistance + 1,
    (distance) => Math.min(maxDistance, Math.max(-maxDistance, -distance)) + maxDistance,
  );
}

function expectTable(who: string, table: Tensor, index: RelativeIndex): void {
  if (table.rank !== 2 || table.shape[0] !== index.rows)
    throw new ShapeError(
      who,
      `table has shape ${showShape(table.shape)}; it must be [${index.rows}, headDim]`,
    );
}

/**
 * Shaw's relative keys: score' = score + scale q_i . relKey[r(i, j)], from q relKey^T [batch, heads, queries, 2 m + 1]
 * instead of a vector for each pair.
 *
 * q [batch, heads, queries, headDim], relKey [2 m + 1, headDim]; `scale` is that of attention. Shaw et al. 2018,
 * arXiv:1803.02155, equation 4.
 */
export function shawKeys(q: Tensor, relKey: Tensor, index: RelativeIndex, scale: number): RelativeModifier {
  expectTable("shawKeys", relKey, index);
  return {
    kind: "relative",
    name: "shawKeys",
    axes: "bhq",
    tensor: matmul(q, relKey, { transposeB: true, alpha: scale }),
    index,
  };
}

/**
 * Shaw's relative values: out_i + sum_j w_ij relValue[r(i, j)], from the weights summed by distance
 * (`attentionOutputs` with `weightSums: index`).
 *
 * Equation 3 of arXiv:1803.02155.
 */
export function shawValues(out: Tensor, weightSums: Tensor, relValue: Tensor): Tensor {
  return out.gpu.scope(() => add(out, matmul(weightSums, relValue)));
}
