/** What the benchmarks compute, in float64: the judge of every implementation before it is timed. */

type Numbers = ArrayLike<number>;

/** a [M, K] times b [K, N]; `transposeA`: a is stored [K, M]; `transposeB`: b is stored [N, K]. */
export function matmul(
  a: Numbers,
  b: Numbers,
  [M, N, K]: readonly [number, number, number],
  { transposeA = false, transposeB = false }: { transposeA?: boolean; transposeB?: boolean } = {},
): Float64Array {
  const out = new Float64Array(M * N);
  if (transposeB) {
    for (let i = 0; i < M; i++)
      for (let j = 0; j < N; j++) {
        let sum = 0;
        for (let k = 0; k < K; k++) sum += a[transposeA ? k * M + i : i * K + k]! * b[j * K + k]!;
        out[i * N + j] = sum;
      }
    return out;
  }
  for (let i = 0; i < M; i++)
    for (let k = 0; k < K; k++) {
      const x = a[transposeA ? k * M + i : i * K + k]!;
      for (let j = 0; j < N; j++) out[i * N + j] = out[i * N + j]! + x * b[k * N + j]!;
    }
  return out;
}

/** (x - mean) / sqrt(var + eps) weight + bias by row; RMSNorm when `center` is false. */
export function rowNorm(
  x: Numbers,
  weight: Numbers,
  bias: Numbers | undefined,
  dim: number,
  eps: number,
  center: boolean,
): Float64Array {
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += dim) {
    let mean = 0;
    if (center) for (let d = 0; d < dim; d++) mean += x[row + d]! / dim;
    let square = 0;
    for (let d = 0; d < dim; d++) square += (x[row + d]! - mean) ** 2 / dim;
    const r = 1 / Math.sqrt(square + eps);
    for (let d = 0; d < dim; d++) out[row + d] = (x[row + d]! - mean) * r * weight[d]! + (bias?.[d] ?? 0);
  }
  return out;
}

/** Gradients of RMSNorm in x and weight. */
export function rmsNormBackward(
  x: Numbers,
  weight: Numbers,
  grad: Numbers,
  dim: number,
  eps: number,
): { x: Float64Array; weight: Float64Array } {
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(dim);
  for (let row = 0; row < x.length; row += dim) {
    let square = 0;
    for (let d = 0; d < dim; d++) square += x[row + d]! ** 2 / dim;
    const r = 1 / Math.sqrt(square + eps);
    let along = 0;
    for (let d = 0; d < dim; d++) {
      along += (grad[row + d]! * weight[d]! * x[row + d]!) / dim;
      dw[d] = dw[d]! + grad[row + d]! * x[row + d]! * r;
    }
    for (let d = 0; d < dim; d++)
      dx[row + d] = r * (grad[row + d]! * weight[d]! - x[row + d]! * r * r * along);
  }
  return { x: dx, weight: dw };
}

export function softmax(x: Numbers, dim: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += dim) {
    let max = -Infinity;
    for (let d = 0; d < dim; d++) max = Math.max(max, x[row + d]!);
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += out[row + d] = Math.exp(x[row + d]! - max);
    for (let d = 0; d < dim; d++) out[row + d] = out[row + d]! / sum;
  }
  return out;
}

/** Sizes of an attention, and where a head's row starts. */
export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly dim: number;
  /** Keys that a query sees, the own one included; default all. */
  readonly window?: number;
  /** "hsd": [heads, seq, dim]; "shd": [seq, heads, dim]. */
  readonly layout: "hsd" | "shd";
}

interface Row {
  readonly q: number;
  readonly first: number;
  readonly end: number;
  readonly key: (j: number) => number;
  readonly weights: Float64Array;
}

function attentionRow(q: Numbers, k: Numbers, s: AttentionShape, h: number, i: number): Row {
  const { heads, kvHeads, queries, keys, dim, layout } = s;
  const g = Math.floor((h * kvHeads) / heads);
  const at = layout === "hsd" ? (h * queries + i) * dim : (i * heads + h) * dim;
  const key = (j: number): number => (layout === "hsd" ? (g * keys + j) * dim : (j * kvHeads + g) * dim);
  const end = i + keys - queries + 1;
  const first = Math.max(0, end - (s.window ?? end));
  const scores = new Float64Array(end - first);
  for (let j = first; j < end; j++) {
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += q[at + d]! * k[key(j) + d]!;
    scores[j - first] = sum / Math.sqrt(dim);
  }
  return { q: at, first, end, key, weights: softmax(scores, scores.length) };
}

/** Causal attention; the last query sees the last key. `rows`: only these queries (the others stay zero). */
export function attention(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  s: AttentionShape,
  rows?: readonly number[],
): Float64Array {
  const out = new Float64Array(s.heads * s.queries * s.dim);
  const list = rows ?? Array.from({ length: s.queries }, (_, i) => i);
  for (let h = 0; h < s.heads; h++)
    for (const i of list) {
      const row = attentionRow(q, k, s, h, i);
      for (let j = row.first; j < row.end; j++) {
        const p = row.weights[j - row.first]!;
        for (let d = 0; d < s.dim; d++) out[row.q + d] = out[row.q + d]! + p * v[row.key(j) + d]!;
      }
    }
  return out;
}

/** Gradients of causal attention. */
export function attentionBackward(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  grad: Numbers,
  s: AttentionShape,
): { q: Float64Array; k: Float64Array; v: Float64Array } {
  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  const scale = 1 / Math.sqrt(s.dim);
  for (let h = 0; h < s.heads; h++)
    for (let i = 0; i < s.queries; i++) {
      const row = attentionRow(q, k, s, h, i);
      const dp = new Float64Array(row.weights.length);
      let delta = 0;
      for (let j = row.first; j < row.end; j++) {
        const at = row.key(j);
        const p = row.weights[j - row.first]!;
        let sum = 0;
        for (let d = 0; d < s.dim; d++) {
          const g = grad[row.q + d]!;
          sum += g * v[at + d]!;
          dv[at + d] = dv[at + d]! + p * g;
        }
        dp[j - row.first] = sum;
        delta += p * sum;
      }
      for (let j = row.first; j < row.end; j++) {
        const at = row.key(j);
        const ds = row.weights[j - row.first]! * (dp[j - row.first]! - delta) * scale;
        for (let d = 0; d < s.dim; d++) {
          dq[row.q + d] = dq[row.q + d]! + ds * k[at + d]!;
          dk[at + d] = dk[at + d]! + ds * q[row.q + d]!;
        }
      }
    }
  return { q: dq, k: dk, v: dv };
}

/** Turn the pairs (d, d + dim / 2) of every head of x [seq, heads, dim] by its position times theta^(-2d / dim). */
export function rope(x: Numbers, heads: number, dim: number, offset = 0, sign = 1): Float64Array {
  const out = new Float64Array(x.length);
  const half = dim / 2;
  for (let row = 0; row * dim < x.length; row++) {
    const position = Math.floor(row / heads) + offset;
    for (let d = 0; d < half; d++) {
      const angle = sign * position * 10000 ** (-d / half);
      const [a, b] = [x[row * dim + d]!, x[row * dim + d + half]!];
      out[row * dim + d] = a * Math.cos(angle) - b * Math.sin(angle);
      out[row * dim + d + half] = b * Math.cos(angle) + a * Math.sin(angle);
    }
  }
  return out;
}
