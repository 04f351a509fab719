type Numbers = ArrayLike<number>;

/** RWKV-4's weighted sum as it is written, from an empty text: [B, T, A]. */
export function wkvReference(
  { batch, seq, dim }: { readonly batch: number; readonly seq: number; readonly dim: number },
  k: Numbers,
  v: Numbers,
  timeDecay: Numbers,
  timeFirst: Numbers,
): Float64Array {
  return Float64Array.from({ length: batch * seq * dim }, (_, at) => {
    const [d, t] = [at % dim, Math.floor(at / dim) % seq];
    const w = Math.exp(timeDecay[d]!);
    const exponent = (i: number): number => k[at - i * dim]! + (i === 0 ? timeFirst[d]! : -(i - 1) * w);
    let top = -Infinity;
    for (let i = 0; i <= t; i++) top = Math.max(top, exponent(i));
    let [num, den] = [0, 0];
    for (let i = 0; i <= t; i++) {
      const weight = Math.exp(exponent(i) - top);
      num += weight * v[at - i * dim]!;
      den += weight;
    }
    return num / den;
  });
}
