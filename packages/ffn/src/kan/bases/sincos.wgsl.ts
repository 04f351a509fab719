/*
 * Sine and cosine of large arguments. A fragment without bindings: the kernels of `fourier.ts` and
 * `wavelet.wgsl.ts` include it.
 */

/**
 * WGSL `sin_cos(x) -> vec2f(sin, cos)`, to a few units in the last place for |x| up to 10^4. The built-in functions
 * promise an absolute error of 2^-11 only, and only inside [-pi, pi]. The argument is reduced by multiples of pi/2
 * in three parts; the polynomials are minimax fits on [-pi/4, pi/4].
 */
export const SIN_COS = /* wgsl */ `
fn sin_cos(x: f32) -> vec2f {
  let n = round(x * 0.63661977236758);
  let r = ((x - n * 1.5703125) - n * 4.837512969970703e-4) - n * 7.549789948768648e-8;
  let q = r * r;
  let s = r + r * q * (-0.16666654611 + q * (8.3321608736e-3 - q * 1.9515295891e-4));
  let c = 1.0 - 0.5 * q + q * q * (4.166664568298827e-2 + q * (-1.388731625493765e-3 + q * 2.443315711809948e-5));
  let quadrant = i32(n) & 3;
  let swapped = select(vec2f(s, c), vec2f(c, s), (quadrant & 1) == 1);
  return vec2f(
    select(swapped.x, -swapped.x, quadrant >= 2),
    select(swapped.y, -swapped.y, quadrant == 1 || quadrant == 2),
  );
}`;
