import { flatMain } from "@x/kernels";
import { complexWgsl } from "../convolution/complex.wgsl.js";

/*
 * Poles of diagonal models from their parameters. An invocation owns one pole; grid: count invocations in workgroups of 64.
 *
 * Bindings: re, im, d_re, d_im [count]; log_dt, one for several poles, and d_log_dt [count]; out [count] of vec4<u32>, grad
 * [count] of vec4.
 */

/** How parameters become poles; see `poles`. */
export type PoleRule = "zoh" | "bilinear" | "discrete";

export interface PoleVariant {
  readonly rule: PoleRule;
  readonly negative: boolean;
  readonly clip: boolean;
}

const TERMS = 12;
const inverseFactorials = Array.from({ length: TERMS }, (_, k) => {
  let factorial = 1;
  for (let n = 2; n <= k + 1; n++) factorial *= n;
  return `${1 / factorial}f`;
});

/** 1 / (2 pi) */
const TURNS = "0.15915494309189535";

/** What forward and backward share: the continuous pole and the step of one element. */
const common = (v: PoleVariant): string => /* wgsl */ `
${complexWgsl}
// Least ln |a|: any power of such a pole is 0, and no product of it and a length overflows.
const LEAST = -1e30;
const INVERSE_FACTORIALS = array<f32, ${TERMS}>(${inverseFactorials.join(", ")});
struct Phi { value: vec2f, slope: vec2f }

// phi(z) = (e^z - 1) / z and phi'(z); near 0 by their series, where the difference would lose its digits.
fn phi(z: vec2f, exponential: vec2f) -> Phi {
  if (dot(z, z) < 1.0) {
    var value = vec2f();
    var slope = vec2f();
    for (var k = ${TERMS - 1}; k >= 0; k--) {
      slope = cmul(slope, z) + value;
      value = cmul(value, z) + vec2f(INVERSE_FACTORIALS[k], 0.0);
    }
    return Phi(value, slope);
  }
  let value = cdiv(exponential - vec2f(1.0, 0.0), z);
  return Phi(value, cdiv(exponential - value, z));
}

fn mulhi(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let mid = ah * bl + ((al * bl) >> 16u);
  let low = al * bh + (mid & 0xffffu);
  return ah * bh + (mid >> 16u) + (low >> 16u);
}
// x = mantissa 2^(exponent - 24), up to the sign.
fn mantissa(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return select((bits & 0x7fffffu) | 0x800000u, 0u, (bits & 0x7f800000u) == 0u);
}
fn exponent(x: f32) -> i32 { return i32((bitcast<u32>(x) >> 23u) & 255u) - 126; }
// (high, low) / 2^by
fn shift_right(high: u32, low: u32, by: u32) -> vec2u {
  if (by == 0u) { return vec2u(high, low); }
  if (by >= 64u) { return vec2u(); }
  if (by >= 32u) { return vec2u(0u, high >> (by - 32u)); }
  return vec2u(high >> by, (low >> by) | (high << (32u - by)));
}

// e^x a / (2 pi) in 2^-32 turns, whole turns left out: in integers, to 30 digits where a float32 has 24, since a power
// multiplies the error by its exponent, and in a form that no compiler's rearrangement of floats can harm.
fn angle_of(x_given: f32, a: f32) -> i32 {
  // x log2 e = e2 + fraction / 2^32, log2 e in 64 binary digits.
  let x = clamp(x_given, -87.0, 87.0);
  let m = mantissa(x);
  let rest = mulhi(m, 1545072827u);
  let product = m * 3098164009u;
  let sum = product + rest;
  let binary = shift_right(mulhi(m, 3098164009u) + select(0u, 1u, sum < product), sum, u32(23 - exponent(x)));
  var e2 = i32(binary.x);
  var fraction = binary.y;
  if (x < 0.0) {
    e2 = select(-e2 - 1, -e2, fraction == 0u);
    fraction = ~fraction + 1u;
  }
  // 2^(fraction / 2^32) in 2^-31, by Horner's rule: 1 + y (1 + y / 2 (1 + y / 3 ..)), y = fraction ln 2.
  let y = mulhi(fraction, 2977044472u);
  var power2 = 0x80000000u;
  for (var n = 12u; n > 0u; n--) { power2 = 0x80000000u + mulhi(y, power2) / n; }
  // Times 1 / (2 pi) in 2^-34, times the 24 digits of a.
  let scaled = mulhi(power2, 2734261102u);
  let ma = mantissa(a);
  let high = mulhi(scaled, ma);
  let low = scaled * ma;
  let by = 25 - e2 - exponent(a);
  var turns = 0u;
  if (by > 0) {
    let half = shift_right(high, low, u32(by) - 1u);
    turns = (half.y >> 1u) + (half.y & 1u) + (half.x << 31u);
  } else if (by > -32) { turns = low << u32(-by); }
  return select(bitcast<i32>(turns), -bitcast<i32>(turns), a < 0.0);
}

// (ln |a|, turns) of a = (1 + h) / (1 - h): tanh(ln |a|) = 2 x / (1 + |h|^2) and arg a = atan2(2 y, 1 - |h|^2), both
// brought to full precision by one step of Newton.
fn bilinear_pole(h: vec2f) -> vec2f {
  let s = dot(h, h);
  let t = 2.0 * h.x / (1.0 + s);
  let q = t * t;
  var log_abs = fma(t * q, fma(q, fma(q, fma(q, fma(q, 1.0 / 11.0, 1.0 / 9.0), 1.0 / 7.0), 0.2), 1.0 / 3.0), t);
  if (abs(t) > 0.2) {
    let ratio = (1.0 + t) / (1.0 - t);
    let rough = log(ratio);
    log_abs = 0.5 * (rough + (ratio * exp_(-rough) - 1.0));
  }
  let to = vec2f(1.0 - s, 2.0 * h.y);
  let rough = atan2(to.y, to.x) * ${TURNS};
  let off = cmul(to, conj(turn(rough)));
  return vec2f(log_abs, rough + off.y / length(to) * ${TURNS});
}

fn continuous(i: u32) -> vec2f {
  let x = ${v.negative ? "-exp_(re[i])" : "re[i]"};
  return vec2f(${v.clip ? "min(x, params.clip)" : "x"}, im[i]);
}
fn angle(i: u32, a: f32) -> i32 { return angle_of(log_dt[i / params.per], params.rescale * a); }
fn step(i: u32) -> f32 { return params.rescale * exp_(log_dt[i / params.per]); }
fn packed(log_abs: f32, angle: i32, factor: vec2f) -> vec4u {
  return vec4u(bitcast<u32>(log_abs), bitcast<u32>(angle), bitcast<vec2u>(factor));
}
${flatMain("i", "params.count")}`;

export const polesForward = (v: PoleVariant): string => {
  const text = {
    discrete: "out[i] = packed(-exp_(min(re[i], 69.0)), angle_of(im[i], 1.0), vec2f(exp_(log_dt[i]), 0.0));",
    zoh: /* wgsl */ `let a = continuous(i);
  let z = step(i) * a;
  let steps = angle(i, a.y);
  out[i] = packed(max(z.x, LEAST), steps, step(i) * phi(z, exp_(z.x) * turn(turns_of(steps))).value);`,
    bilinear: /* wgsl */ `let h = 0.5 * step(i) * continuous(i);
  let pole = bilinear_pole(h);
  out[i] = packed(pole.x, i32(round(pole.y * 4294967296.0)), step(i) * cdiv(vec2f(1.0, 0.0), vec2f(1.0, 0.0) - h));`,
  };
  return /* wgsl */ `
${common(v)}
  ${text[v.rule]}
}`;
};

/** The conjugate derivatives of (ln a, f) by A and dt, applied to their gradients. */
export const polesBackward = (v: PoleVariant): string => {
  const by = {
    zoh: /* wgsl */ `let exponential = exp_(z.x) * turn(turns_of(angle(i, a.y)));
  let g_z = g_pole;
  let by_a = dt * dt * phi(z, exponential).slope;
  let by_dt = exponential;`,
    bilinear: /* wgsl */ `let w = cdiv(vec2f(1.0, 0.0), vec2f(1.0, 0.0) - 0.5 * z);
  let g_z = cmul(conj(cdiv(w, vec2f(1.0, 0.0) + 0.5 * z)), g_pole);
  let by_dt = cmul(w, w);
  let by_a = 0.5 * dt * dt * by_dt;`,
  };
  return /* wgsl */ `
${common(v)}
  let g_pole = vec2f(grad[i].x, grad[i].y * ${TURNS});
  let g_factor = grad[i].zw;
  ${
    v.rule === "discrete"
      ? `d_re[i] = -exp_(min(re[i], 69.0)) * g_pole.x;
  d_im[i] = exp_(im[i]) * g_pole.y;
  d_log_dt[i] = exp_(log_dt[i]) * g_factor.x;`
      : `let a = continuous(i);
  let dt = step(i);
  let z = dt * a;
  ${by[v.rule]}
  let g_a = dt * g_z + cmul(conj(by_a), g_factor);
  d_re[i] = g_a.x${v.negative ? " * a.x" : ""}${v.clip ? " * select(0.0, 1.0, re[i] <= params.clip)" : ""};
  d_im[i] = g_a.y;
  d_log_dt[i] = dt * (dot(a, g_z) + dot(by_dt, g_factor));`
  }
}`;
};
