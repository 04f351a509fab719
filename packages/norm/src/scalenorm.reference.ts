/** g x / max(||x||, eps) for each row of `dim` features, in float64. */
export function scaleNormReference(
  { dim, eps }: { readonly dim: number; readonly eps: number },
  x: ArrayLike<number>,
  g = 1,
): Float64Array {
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += dim) {
    let square = 0;
    for (let i = 0; i < dim; i++) square += x[row + i]! ** 2;
    const length = Math.max(Math.sqrt(square), eps);
    for (let i = 0; i < dim; i++) out[row + i] = (g * x[row + i]!) / length;
  }
  return out;
}
