/*
 * Complex numbers: a fragment, which kernels include.
 */

/**
 * Complex numbers as vec2f (re, im). WGSL promises little of its sin, cos, exp and atan2 (sin and cos 2^-11), and a
 * state space model multiplies angles by thousands of steps: so angles are counted in turns, as integers, and go through
 * polynomials.
 */
export const complexWgsl = /* wgsl */ `
fn conj(a: vec2f) -> vec2f { return vec2f(a.x, -a.y); }
fn cmul(a: vec2f, b: vec2f) -> vec2f { return vec2f(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }
// The divisor is brought to the size of 1 first: its square would overflow from 2^64 on.
fn cdiv(a: vec2f, b: vec2f) -> vec2f {
  let size = max(abs(b.x), abs(b.y));
  let unit = b / size;
  return cmul(a / size, conj(unit)) / dot(unit, unit);
}

// e^x: x = k ln 2 + r, with ln 2 in two parts of which the first times k is exact; Taylor to r^7.
fn exp_(x: f32) -> f32 {
  if (x < -87.0) { return 0.0; }
  let k = round(min(x, 88.7) * 1.4426950408889634);
  let r = fma(k, 2.1219444005469057e-4, fma(k, -0.693359375, min(x, 88.7)));
  let p = fma(r, fma(r, fma(r, fma(r, fma(r, 1.0 / 5040.0, 1.0 / 720.0), 1.0 / 120.0), 1.0 / 24.0), 1.0 / 6.0), 0.5);
  return ldexp(fma(r * r, p, r) + 1.0, i32(k));
}

// exp(2 pi i x) for |x| <= 1/2: whole quarter turns, then Taylor within an eighth of a turn.
fn turn(x: f32) -> vec2f {
  let q = round(4.0 * x);
  let r = 6.283185307179586 * (x - 0.25 * q);
  let s = r * r;
  let sine = fma(r * s, fma(s, fma(s, fma(s, 1.0 / 362880.0, -1.0 / 5040.0), 1.0 / 120.0), -1.0 / 6.0), r);
  let cosine = fma(s, fma(s, fma(s, fma(s, fma(s, -1.0 / 3628800.0, 1.0 / 40320.0), -1.0 / 720.0), 1.0 / 24.0), -0.5), 1.0);
  let k = i32(q) & 3;
  let quarter = select(vec2f(cosine, sine), vec2f(-sine, cosine), (k & 1) == 1);
  return select(quarter, -quarter, k >= 2);
}

// 2^-32 turns as turns.
fn turns_of(steps: i32) -> f32 { return f32(steps) * 2.3283064365386963e-10; }
// A pole a in four words: the bits of ln |a|, arg a in 2^-32 turns, and the bits of the factor of what enters.
fn factor(pole: vec4u) -> vec2f { return bitcast<vec2f>(pole.zw); }
// a^l. The angle is a product of integers that wraps at whole turns: no length costs it digits.
fn power(pole: vec4u, l: u32) -> vec2f {
  return exp_(f32(l) * bitcast<f32>(pole.x)) * turn(turns_of(bitcast<i32>(pole.y * l)));
}`;
