/** KAN layers in double precision, straight from their formulas. */

/** B_{j,k}(x) by the recurrence. */
function bspline(x: number, knots: ArrayLike<number>, j: number, k: number): number {
  if (k === 0) return knots[j]! <= x && x < knots[j + 1]! ? 1 : 0;
  const part = (a: number, b: number): number => (b === 0 ? 0 : a / b);
  return (
    part(x - knots[j]!, knots[j + k]! - knots[j]!) * bspline(x, knots, j, k - 1) +
    part(knots[j + k + 1]! - x, knots[j + k + 1]! - knots[j + 1]!) * bspline(x, knots, j + 1, k - 1)
  );
}

/** All bases of x [tokens, I]; grid [I, G + 2k + 1] or [G + 2k + 1]. */
export function bsplineBases(
  x: ArrayLike<number>,
  I: number,
  grid: ArrayLike<number>,
  knots: number,
  k: number,
): Float64Array {
  const n = knots - k - 1;
  return Float64Array.from({ length: x.length * n }, (_, at) => {
    const i = Math.floor(at / n) % I;
    const own = Array.from({ length: knots }, (_, j) => grid[grid.length === knots ? j : i * knots + j]!);
    return bspline(x[Math.floor(at / n)]!, own, at % n, k);
  });
}

/** out_o = sum_i f(x_i, o, i) */
export function edges(
  x: ArrayLike<number>,
  I: number,
  O: number,
  f: (x: number, o: number, i: number, token: number) => number,
): Float64Array {
  return Float64Array.from({ length: (x.length / I) * O }, (_, at) => {
    const token = Math.floor(at / O);
    let s = 0;
    for (let i = 0; i < I; i++) s += f(x[token * I + i]!, at % O, i, token);
    return s;
  });
}

export const mothers = {
  mexicanHat: (s: number): number =>
    (2 / (Math.sqrt(3) * Math.PI ** 0.25)) * (s * s - 1) * Math.exp((-s * s) / 2),
  morlet: (s: number, omega0 = 5): number => Math.cos(omega0 * s) * Math.exp((-s * s) / 2),
  dog: (s: number): number => -s * Math.exp((-s * s) / 2),
};
