/** A^-1 B in double precision by Gaussian elimination with row exchange; a [n, n], b [n, m], row-major. */
export function solve(a: ArrayLike<number>, b: ArrayLike<number>, n: number): Float64Array {
  const m = b.length / n;
  const [A, X] = [Float64Array.from(a), Float64Array.from(b)];
  for (let k = 0; k < n; k++) {
    let p = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(A[i * n + k]!) > Math.abs(A[p * n + k]!)) p = i;
    const exchange = (t: Float64Array, width: number): void => {
      for (let j = 0; j < width; j++)
        [t[k * width + j], t[p * width + j]] = [t[p * width + j]!, t[k * width + j]!];
    };
    exchange(A, n);
    exchange(X, m);
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const f = A[i * n + k]! / A[k * n + k]!;
      for (let j = 0; j < n; j++) A[i * n + j]! -= f * A[k * n + j]!;
      for (let j = 0; j < m; j++) X[i * m + j]! -= f * X[k * m + j]!;
    }
  }
  return X.map((v, i) => v / A[Math.floor(i / m) * n + Math.floor(i / m)]!);
}

/** a [n, k] times b [k, m] */
export function multiply(a: ArrayLike<number>, b: ArrayLike<number>, k: number): Float64Array {
  const [n, m] = [a.length / k, b.length / k];
  return Float64Array.from({ length: n * m }, (_, at) => {
    let s = 0;
    for (let l = 0; l < k; l++) s += a[Math.floor(at / m) * k + l]! * b[l * m + (at % m)]!;
    return s;
  });
}

export function transpose(a: ArrayLike<number>, columns: number): Float64Array {
  const rows = a.length / columns;
  return Float64Array.from(
    { length: a.length },
    (_, at) => a[(at % rows) * columns + Math.floor(at / rows)]!,
  );
}
