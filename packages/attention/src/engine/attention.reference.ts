/** Plain float64 pieces that the mechanisms' references are made of. Activations are [batch, seq, heads, dim]. */
export type Numbers = ArrayLike<number>;

/** x W^T (+ b): x [rows, into], W [out, into]. */
export function linearReference(x: Numbers, w: Numbers, into: number, bias?: Numbers): Float64Array {
  const [rows, out] = [x.length / into, w.length / into];
  const y = new Float64Array(rows * out);
  for (let r = 0; r < rows; r++)
    for (let o = 0; o < out; o++) {
      let sum = bias ? bias[o]! : 0;
      for (let i = 0; i < into; i++) sum += x[r * into + i]! * w[o * into + i]!;
      y[r * out + o] = sum;
    }
  return y;
}

export function rmsNormReference(x: Numbers, weight: Numbers, eps: number): Float64Array {
  const n = weight.length;
  return Float64Array.from({ length: x.length }, (_, at) => {
    const first = at - (at % n);
    let square = 0;
    for (let i = 0; i < n; i++) square += x[first + i]! ** 2;
    return (x[at]! / Math.sqrt(square / n + eps)) * weight[at % n]!;
  });
}

/** Interleaved pairs turn by position * base^(-2t / dim); x [batch, seq, heads, dim]. */
export function ropeReference(
  x: Numbers,
  { seq, heads, dim, base }: { seq: number; heads: number; dim: number; base: number },
): Float64Array {
  return Float64Array.from({ length: x.length }, (_, at) => {
    const d = at % dim;
    const position = Math.floor(at / (dim * heads)) % seq;
    const angle = position * base ** (-(d - (d % 2)) / dim);
    const other = x[d % 2 === 0 ? at + 1 : at - 1]!;
    return d % 2 === 0
      ? x[at]! * Math.cos(angle) - other * Math.sin(angle)
      : other * Math.sin(angle) + x[at]! * Math.cos(angle);
  });
}

export interface ReferenceShape {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly dim: number;
  readonly valueDim: number;
  readonly scale: number;
  /** Which pairs there are. */
  readonly seen: (b: number, h: number, i: number, j: number) => boolean;
  /** Added to scale q.k. */
  readonly term?: (b: number, h: number, i: number, j: number) => number;
}

/** Softmax attention over the pairs that are seen; a row without any gives zeros. */
export function attentionReference(q: Numbers, k: Numbers, v: Numbers, p: ReferenceShape): Float64Array {
  const out = new Float64Array(p.batch * p.queries * p.heads * p.valueDim);
  for (let b = 0; b < p.batch; b++)
    for (let h = 0; h < p.heads; h++)
      for (let i = 0; i < p.queries; i++) {
        const g = Math.floor((h * p.kvHeads) / p.heads);
        const scores = Array.from({ length: p.keys }, (_, j) => {
          if (!p.seen(b, h, i, j)) return -Infinity;
          let dot = 0;
          for (let d = 0; d < p.dim; d++)
            dot +=
              q[((b * p.queries + i) * p.heads + h) * p.dim + d]! *
              k[((b * p.keys + j) * p.kvHeads + g) * p.dim + d]!;
          return p.scale * dot + (p.term?.(b, h, i, j) ?? 0);
        });
        const top = Math.max(...scores);
        if (top === -Infinity) continue;
        const weights = scores.map((s) => Math.exp(s - top));
        const total = weights.reduce((a, w) => a + w, 0);
        for (let j = 0; j < p.keys; j++)
          for (let d = 0; d < p.valueDim; d++)
            out[((b * p.queries + i) * p.heads + h) * p.valueDim + d]! +=
              (weights[j]! / total) * v[((b * p.keys + j) * p.kvHeads + g) * p.valueDim + d]!;
      }
  return out;
}
