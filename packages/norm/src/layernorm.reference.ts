/** (x - mean) / sqrt(var + eps) * weight + bias for each row of `dim` features, in float64. */
export function layerNormReference(
  { dim, eps }: { readonly dim: number; readonly eps: number },
  x: ArrayLike<number>,
  weight?: ArrayLike<number>,
  bias?: ArrayLike<number>,
): Float64Array {
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += dim) {
    let mean = 0;
    for (let i = 0; i < dim; i++) mean += x[row + i]! / dim;
    let variance = 0;
    for (let i = 0; i < dim; i++) variance += (x[row + i]! - mean) ** 2 / dim;
    for (let i = 0; i < dim; i++)
      out[row + i] =
        ((x[row + i]! - mean) / Math.sqrt(variance + eps)) * (weight ? weight[i]! : 1) +
        (bias ? bias[i]! : 0);
  }
  return out;
}
