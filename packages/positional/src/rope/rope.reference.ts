export interface RotationProblem {
  readonly batch: number;
  readonly heads: number;
  readonly seq: number;
  readonly headDim: number;
  readonly invFreq: ArrayLike<number>;
  readonly interleaved: boolean;
  readonly attentionFactor?: number;
  readonly position: (b: number, s: number) => number;
  /** xPos: what the pair i of a token is multiplied by. */
  readonly scale?: (position: number, i: number) => number;
}

/** x' = f (x cos a - y sin a), y' = f (y cos a + x sin a) for each pair of x [batch, heads, seq, headDim], in float64. */
export function rotateReference(p: RotationProblem, x: ArrayLike<number>): Float64Array {
  const { batch, heads, seq, headDim, invFreq, interleaved, attentionFactor = 1, scale } = p;
  const out = Float64Array.from(x);
  const n = invFreq.length;
  for (let row = 0; row < batch * heads * seq; row++) {
    const position = p.position(Math.floor(row / (heads * seq)), row % seq);
    for (let i = 0; i < n; i++) {
      const [first, second] = interleaved ? [2 * i, 2 * i + 1] : [i, i + n];
      const [u, v] = [x[row * headDim + first]!, x[row * headDim + second]!];
      const angle = position * invFreq[i]!;
      const f = attentionFactor * (scale ? scale(position, i) : 1);
      out[row * headDim + first] = f * (u * Math.cos(angle) - v * Math.sin(angle));
      out[row * headDim + second] = f * (v * Math.cos(angle) + u * Math.sin(angle));
    }
  }
  return out;
}
