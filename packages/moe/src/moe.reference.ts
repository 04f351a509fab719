/** Float64 arithmetic that the references of this package share; everything is row-major. */

type Numbers = ArrayLike<number>;

export const sum = (x: Numbers): number => Array.from(x).reduce((a, b) => a + b, 0);

export function softmax(row: Numbers): number[] {
  const top = Math.max(...Array.from(row));
  const parts = Array.from(row, (v) => Math.exp(v - top));
  const total = sum(parts);
  return parts.map((v) => v / total);
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
export const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
export const silu = (x: number): number => x * sigmoid(x);

/** Error function by its series, or its continued fraction where that converges faster. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    let [term, total] = [z, z];
    for (let n = 1; Math.abs(term) > 1e-18; n++) {
      term *= (-z * z) / n;
      total += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * total) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / (Math.sqrt(Math.PI) * (z + fraction)));
}
export const gelu = (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2));

/** Positions of the k largest, in falling order; the lower position first among equals. */
export function topk(row: Numbers, k: number): number[] {
  return Array.from(row, (value, i) => ({ value, i }))
    .sort((a, b) => b.value - a.value || a.i - b.i)
    .slice(0, k)
    .map(({ i }) => i);
}

/** Row `i` of a matrix of `width` columns. */
export const row = (x: Numbers, i: number, width: number): number[] =>
  Array.from({ length: width }, (_, j) => x[i * width + j]!);

/** matrix [rows, cols], from `offset`, times a vector. */
export function times(matrix: Numbers, vector: Numbers, rows: number, offset = 0): number[] {
  const cols = vector.length;
  return Array.from({ length: rows }, (_, i) => {
    let total = 0;
    for (let j = 0; j < cols; j++) total += matrix[offset + i * cols + j]! * vector[j]!;
    return total;
  });
}

/** One expert of stacks w1 [E, F, D] and w2 [E, D, F]. */
export function plainExpert(
  x: Numbers,
  e: number,
  w1: Numbers,
  w2: Numbers,
  hidden: number,
  act: (x: number) => number = (v) => Math.max(v, 0),
  b1?: Numbers,
  b2?: Numbers,
): number[] {
  const D = x.length;
  const h = times(w1, x, hidden, e * hidden * D).map((v, f) => act(v + (b1 ? b1[e * hidden + f]! : 0)));
  return times(w2, h, D, e * hidden * D).map((v, d) => v + (b2 ? b2[e * D + d]! : 0));
}

/** One gated expert of stacks wGate, wUp [E, F, D] and wDown [E, D, F]. */
export function gatedExpert(
  x: Numbers,
  e: number,
  wGate: Numbers,
  wUp: Numbers,
  wDown: Numbers,
  hidden: number,
  g: (x: number) => number = silu,
): number[] {
  const at = e * hidden * x.length;
  const up = times(wUp, x, hidden, at);
  return times(
    wDown,
    times(wGate, x, hidden, at).map((v, f) => g(v) * up[f]!),
    x.length,
    at,
  );
}

/** Add factor * y to row `t` of out. */
export function addRow(out: Float64Array, t: number, y: Numbers, factor: number): void {
  for (let d = 0; d < y.length; d++) out[t * y.length + d]! += factor * y[d]!;
}
