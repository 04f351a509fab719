/**
 * min |A X - B| in double precision, by Householder reflections with column pivoting. Columns that depend on others
 * get the coefficient 0.
 *
 * a [rows, n] and b [rows, m], row-major, both overwritten; result [n, m].
 */
export function leastSquares(
  a: Float64Array,
  b: Float64Array,
  rows: number,
  n: number,
  m: number,
): Float64Array {
  const order = Array.from({ length: n }, (_, j) => j);
  const norm2 = (j: number, from: number): number => {
    let s = 0;
    for (let i = from; i < rows; i++) s += a[i * n + j]! ** 2;
    return s;
  };
  const reflect = (
    t: Float64Array,
    width: number,
    j: number,
    v: Float64Array,
    from: number,
    vv: number,
  ): void => {
    let dot = 0;
    for (let i = from; i < rows; i++) dot += v[i]! * t[i * width + j]!;
    const f = (2 * dot) / vv;
    for (let i = from; i < rows; i++) t[i * width + j] = t[i * width + j]! - f * v[i]!;
  };
  let rank = 0;
  let first = 0;
  const v = new Float64Array(rows);
  for (; rank < Math.min(rows, n); rank++) {
    let best = rank;
    let most = -1;
    for (let j = rank; j < n; j++) {
      const s = norm2(j, rank);
      if (s > most) [best, most] = [j, s];
    }
    if (rank === 0) first = most;
    if (!(most > first * 1e-24)) break;
    if (best !== rank) {
      for (let i = 0; i < rows; i++) {
        const t = a[i * n + rank]!;
        a[i * n + rank] = a[i * n + best]!;
        a[i * n + best] = t;
      }
      [order[rank], order[best]] = [order[best]!, order[rank]!];
    }
    const pivot = a[rank * n + rank]!;
    const alpha = pivot > 0 ? -Math.sqrt(most) : Math.sqrt(most);
    for (let i = rank; i < rows; i++) v[i] = a[i * n + rank]!;
    const head = pivot - alpha;
    v[rank] = head;
    const vv = most - pivot ** 2 + head ** 2;
    for (let j = rank; j < n; j++) reflect(a, n, j, v, rank, vv);
    for (let j = 0; j < m; j++) reflect(b, m, j, v, rank, vv);
  }
  const x = new Float64Array(n * m);
  for (let k = rank - 1; k >= 0; k--)
    for (let j = 0; j < m; j++) {
      let s = b[k * m + j]!;
      for (let l = k + 1; l < rank; l++) s -= a[k * n + l]! * x[order[l]! * m + j]!;
      x[order[k]! * m + j] = s / a[k * n + k]!;
    }
  return x;
}
