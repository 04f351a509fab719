/** Each group of channels of each row of the batch to mean 0 and variance 1, then a factor and a shift for a channel. */
export function groupNormReference(
  {
    shape,
    numGroups,
    eps,
  }: { readonly shape: readonly number[]; readonly numGroups: number; readonly eps: number },
  x: ArrayLike<number>,
  weight?: ArrayLike<number>,
  bias?: ArrayLike<number>,
): Float64Array {
  const [, channels] = shape as [number, number];
  const inner = shape.slice(2).reduce((a, b) => a * b, 1);
  const n = (channels / numGroups) * inner;
  const out = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += n) {
    let mean = 0;
    for (let i = 0; i < n; i++) mean += x[start + i]! / n;
    let variance = 0;
    for (let i = 0; i < n; i++) variance += (x[start + i]! - mean) ** 2 / n;
    for (let i = 0; i < n; i++) {
      const channel = Math.floor((start + i) / inner) % channels;
      out[start + i] =
        ((x[start + i]! - mean) / Math.sqrt(variance + eps)) * (weight ? weight[channel]! : 1) +
        (bias ? bias[channel]! : 0);
    }
  }
  return out;
}
