import { groupMain, flatMain } from "@x/kernels";
import { complexWgsl } from "../convolution/complex.wgsl.js";

/*
 * Sums of powers of poles: the kernel of a convolution, what a state adds to the outputs, and the last state.
 *
 * A workgroup of `powerSum` owns 64 (512) times of one channel of one sequence: grid batch dim tiles workgroups. An invocation of
 * `moments` owns one state of one chunk of one sequence, of `lastState` one state of one sequence, of the backward kernels one
 * state of one channel. Grids: batch chunks width, batch width and width invocations in workgroups of 64, width = dim states.
 *
 * Bindings: pole [dim, states] of vec4<u32> (see `poles`), d_pole of vec4; c, d_c [dim, states] and state, d_state, weight
 * [batch, dim, states] of vec2, the real and the imaginary part; u and the sums [batch, seq, dim], a kernel [dim, seq]; partial
 * [batch, chunks, dim, states] and moment [batch, dim, states] of vec4.
 */

/** Times that a lane of `powerSum` reaches by steps of 64 from one power. */
export const STRIDES = 8;
/** Tokens between two powers in `moments`: so far a pole is multiplied by itself. */
export const SPAN = 64;

export interface SumVariant {
  /** What the pole's power is multiplied by: c times the pole's factor, c times a state, or `c` [batch, ..] alone. */
  readonly by: "factor" | "state" | "alone";
  /** Lanes take one time each, for short sequences. */
  readonly short: boolean;
}

const timeOf = /* wgsl */ `
fn time(t: u32) -> u32 { return select(t, params.seq - 1u - t, params.reverse != 0u); }`;

/**
 * out[b, t, h] = scale Re sum over n of w_n a_n^(e(t) + offset), e(t) = t or from the last token on. A workgroup owns 64
 * (512) times of one channel of one sequence; a lane begins with one power and goes on by steps of a^64.
 */
export const powerSum = (v: SumVariant): string => {
  const steps = v.short ? [0] : Array.from({ length: STRIDES }, (_, i) => i);
  const weight = {
    factor: "cmul(c[h * params.states + n], factor(pole[h * params.states + n]))",
    state: "cmul(c[h * params.states + n], state[row * params.states + n])",
    alone: "c[row * params.states + n]",
  }[v.by];
  return /* wgsl */ `
${complexWgsl}
${timeOf}
${groupMain("index")}
  let row = index / params.tiles;
  if (row >= params.batch * params.dim) { return; }
  let h = row % params.dim;
  let first = index % params.tiles * ${64 * steps.length}u + lane;
  ${steps.map((i) => `var sum${i} = 0.0;`).join(" ")}
  for (var n = 0u; n < params.states; n++) {
    let a = pole[h * params.states + n];
    var w = cmul(${weight}, power(a, first + params.offset));
    sum0 += w.x;
    ${v.short ? "" : "let stride = power(a, 64u);"}
    ${steps
      .slice(1)
      .map((i) => `w = cmul(w, stride); sum${i} += w.x;`)
      .join("\n    ")}
  }
  let base = row / params.dim * params.stride_b + h * params.stride_h;
  ${steps
    .map(
      (i) =>
        `if (first + ${64 * i}u < params.seq) { out[base + time(first + ${64 * i}u) * params.stride_t] = params.scale * sum${i}; }`,
    )
    .join("\n  ")}
}`;
};

/**
 * partial[b, chunk, h, n] = (sum of u_t a^e, sum of e u_t a^e) over the chunk's tokens, e = e(t) + offset. An invocation owns a
 * state of a chunk; 64 tokens at a time by Horner's rule, which gives the derivative too, then one power.
 */
export const moments = (): string => /* wgsl */ `
${complexWgsl}
${timeOf}
${flatMain("index")}
  let width = params.dim * params.states;
  if (index >= params.batch * params.chunks * width) { return; }
  let h = index % width / params.states;
  let chunk = index / width % params.chunks;
  let base = index / (width * params.chunks) * params.stride_b + h * params.stride_h;
  let pole_n = pole[index % width];
  let a = power(pole_n, 1u);
  var sum = vec2f();
  var weighted = vec2f();
  let end = min((chunk + 1u) * params.chunk, params.seq);
  for (var first = chunk * params.chunk; first < end; first += ${SPAN}u) {
    var value = vec2f();
    var slope = vec2f();
    for (var t = min(first + ${SPAN}u, end); t > first; t--) {
      slope = cmul(slope, a) + value;
      value = cmul(value, a);
      value.x += u[base + time(t - 1u) * params.stride_t];
    }
    let e = first + params.offset;
    let far = power(pole_n, e);
    let here = cmul(far, value);
    sum += here;
    weighted += cmul(far, cmul(a, slope)) + f32(e) * here;
  }
  partial[index] = vec4f(sum, weighted);
}`;

/** From the moments of the output's gradient: those of c, of the pole and of what c was multiplied by. */
export const powerSumBackward = (v: { readonly state: boolean }): string => /* wgsl */ `
${complexWgsl}
${flatMain("i", "params.width")}
  var d_c_i = vec2f();
  var d_log = vec2f();
  var d_factor = vec2f();
  for (var b = 0u; b < params.batch; b++) {
    let at = b * params.width + i;
    let times = ${v.state ? "state[at]" : "factor(pole[i])"};
    let g = params.scale * conj(moment[at].xy);
    d_c_i += cmul(conj(times), g);
    d_log += params.scale * conj(cmul(cmul(c[i], times), moment[at].zw));
    ${v.state ? "d_state[at]" : "d_factor"} = cmul(conj(c[i]), g);
  }
  d_c[i] = d_c_i;
  d_pole[i] = vec4f(d_log.x, 6.283185307179586 * d_log.y, d_factor);
}`;

/** out[b, h, n] = a^seq state + f (sum of u_t a^(seq - 1 - t)). */
export const lastState = (v: { readonly state: boolean }): string => /* wgsl */ `
${complexWgsl}
${flatMain("i", "params.batch * params.width")}
  let pole_i = pole[i % params.width];
  out[i] = cmul(factor(pole_i), moment[i].xy)${v.state ? " + cmul(power(pole_i, params.seq), state[i])" : ""};
}`;

/** The gradients of the last state; weight[b, h, n] is what the powers are multiplied by in that of u. */
export const lastStateBackward = (v: { readonly state: boolean }): string => /* wgsl */ `
${complexWgsl}
${flatMain("i", "params.width")}
  let f = factor(pole[i]);
  ${v.state ? "let far = power(pole[i], params.seq);" : ""}
  var d_log = vec2f();
  var d_factor = vec2f();
  for (var b = 0u; b < params.batch; b++) {
    let at = b * params.width + i;
    let g = grad[at];
    weight[at] = cmul(conj(g), f);
    d_factor += cmul(conj(moment[at].xy), g);
    d_log += cmul(conj(cmul(f, moment[at].zw)), g);
    ${
      v.state
        ? `d_log += f32(params.seq) * cmul(conj(cmul(far, state[at])), g);
    d_state[at] = cmul(conj(far), g);`
        : ""
    }
  }
  d_pole[i] = vec4f(d_log.x, 6.283185307179586 * d_log.y, d_factor);
}`;
