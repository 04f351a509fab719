/*
 * Functions that WGSL lacks, or has with too little precision: fragments, which kernels include.
 */

// WGSL functions of gated recurrences that keep the precision of small results.

export const sigmoidWgsl: string = /* wgsl */ `
fn sigmoid(x: f32) -> f32 {
  let t = exp(-abs(x));
  return select(1.0, t, x < 0.0) / (1.0 + t);
}`;

/** log(1 + t) = 2 artanh(t / (2 + t)), t = e^-|x|: 1 + t would round t off. */
export const softplusWgsl: string = /* wgsl */ `
fn softplus(x: f32) -> f32 {
  let t = exp(-abs(x));
  let w = t / (2.0 + t);
  let s = w * w;
  return max(x, 0.0) + 2.0 * w * (1.0 + s * (1.0 / 3.0 + s * (0.2 + s * (1.0 / 7.0 + s * (1.0 / 9.0 + s * (1.0 / 11.0 + s / 13.0))))));
}`;

/** 1 - e^-x for x >= 0, by its series where the difference cancels. It is softplus' slope at softplus = x. */
export const riseWgsl: string = /* wgsl */ `
fn rise(x: f32) -> f32 {
  let near = x * (1.0 - x / 2.0 * (1.0 - x / 3.0 * (1.0 - x / 4.0 * (1.0 - x / 5.0 * (1.0 - x / 6.0 * (1.0 - x / 7.0))))));
  return select(1.0 - exp(-x), near, x < 0.5);
}`;
