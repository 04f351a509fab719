export interface RmsReference {
  readonly dim: number;
  readonly eps: number;
  readonly epsPlacement?: "inside" | "outside";
  /** Features in the statistic. */
  readonly k?: number;
  /** Added to the weight. */
  readonly offset?: number;
}

/** Rows of x divided by the root mean square of their first k features, in float64. */
export function rmsNormReference(
  { dim, eps, epsPlacement = "inside", k = dim, offset = 0 }: RmsReference,
  x: ArrayLike<number>,
  weight?: ArrayLike<number>,
  bias?: ArrayLike<number>,
): Float64Array {
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += dim) {
    let square = 0;
    for (let i = 0; i < k; i++) square += x[row + i]! ** 2 / k;
    const r = epsPlacement === "inside" ? Math.sqrt(square + eps) : Math.sqrt(square) + eps;
    for (let i = 0; i < dim; i++)
      out[row + i] = (x[row + i]! / r) * (weight ? weight[i]! + offset : 1) + (bias ? bias[i]! : 0);
  }
  return out;
}
