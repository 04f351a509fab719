import { flatMain } from "@x/kernels";

/*
 * The inverse of unit lower triangular matrices I + A, by forward substitution. An invocation owns one column of one matrix
 * and computes its rows from the top, each from the rows above, which the same invocation wrote. Grid: matrices size
 * invocations, in workgroups of 64.
 *
 * Bindings: a, inverse [matrices, size, size]. Only what lies below the diagonal of a is read.
 */

/** inverse[i, j] = [i = j] - sum of a[i, l] inverse[l, j] over l from j to i - 1. */
export const unitLowerInverseWgsl = (): string => /* wgsl */ `
${flatMain("index", "params.count")}
  let n = params.size;
  let j = index % n;
  let first = index / n * n * n;
  for (var i = 0u; i < n; i++) {
    var x = select(0.0, 1.0, i == j);
    for (var l = j; l < i; l++) { x = fma(-a[first + i * n + l], inverse[first + l * n + j], x); }
    inverse[first + i * n + j] = x;
  }
}`;
