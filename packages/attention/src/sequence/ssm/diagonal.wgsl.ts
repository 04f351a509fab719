import { flatMain, foldLanes, groupMain } from "@x/kernels";
import { complexWgsl } from "../convolution/complex.wgsl.js";

/*
 * Diagonal models that all channels enter: the scan over tokens, and what enters it. Where there are more chunks than one,
 * `scanEnds` walks each by itself, `scanCarry` joins them, and the scan starts each from what comes into it.
 *
 * An invocation owns one state of one chunk of one sequence, of the carry one state of one sequence, of `inputForward` one
 * element of b; a workgroup of `inputBackward` owns one state. Grids: batch chunks states, batch states, states dim invocations
 * in workgroups of 64, and `states` workgroups.
 *
 * Bindings: v, x, dv [batch, seq, states] of vec2, the real and the imaginary part; pole [states] of vec4<u32> (see `poles`);
 * start [batch, states] or [batch, chunks, states]; borders [batch, chunks, states]; partial [batch, chunks, states] of vec4; b
 * and db [states, dim] of vec2; weight and grad [2 states, dim].
 */

export interface ScanVariant {
  /** From the last token to the first, with the conjugate pole: the gradient. */
  readonly adjoint: boolean;
  /** A state, or the state before each chunk, comes in. */
  readonly start: boolean;
}

export const scanParams = {
  batch: "u32",
  seq: "u32",
  states: "u32",
  chunk: "u32",
  chunks: "u32",
  /** The sequence itself runs from its last token to its first. */
  reverse: "u32",
  /** `start` holds a state for every chunk, not only for the first. */
  borders: "u32",
} as const;

/** An invocation owns one state of one chunk of one sequence; neighbours in a workgroup own neighbouring states. */
const head = (adjoint: boolean): string => /* wgsl */ `
${complexWgsl}
fn place(b: u32, t: u32, p: u32) -> u32 {
  return (b * params.seq + select(t, params.seq - 1u - t, params.reverse != 0u)) * params.states + p;
}
${flatMain("index", "params.batch * params.chunks * params.states")}
  let p = index % params.states;
  let c = index / params.states % params.chunks;
  let b = index / (params.states * params.chunks);
  let first = c * params.chunk;
  let last = min(first + params.chunk, params.seq);
  let a = ${adjoint ? "power(pole[p], 1u)" : "conj(power(pole[p], 1u))"};`;

/** borders[b, c, p]: what chunk c alone hands on. Forward the last state, in the gradient the adjoint of the state before. */
export const scanEnds = (v: ScanVariant): string => /* wgsl */ `
${head(v.adjoint)}
  var s = vec2f();
  ${
    v.adjoint
      ? "for (var t = last; t > first; t--) { s = cmul(a, v[place(b, t - 1u, p)] + s); }"
      : "for (var t = first; t < last; t++) { s = cmul(a, s) + v[place(b, t, p)]; }"
  }
  borders[index] = s;
}`;

/** In place: borders[b, c, p] becomes what comes into chunk c. An invocation owns one state of one sequence. */
export const scanCarry = (v: ScanVariant): string => /* wgsl */ `
${complexWgsl}
${flatMain("index", "params.batch * params.states")}
  let p = index % params.states;
  let b = index / params.states;
  let whole = power(pole[p], params.chunk);
  let rest = power(pole[p], params.seq - (params.chunks - 1u) * params.chunk);
  var s = ${v.start ? "conj(start[index])" : "vec2f()"};
  for (var i = 0u; i < params.chunks; i++) {
    let c = ${v.adjoint ? "params.chunks - 1u - i" : "i"};
    let at = (b * params.chunks + c) * params.states + p;
    let own = borders[at];
    borders[at] = s;
    let a = select(whole, rest, c + 1u == params.chunks);
    s = cmul(${v.adjoint ? "a" : "conj(a)"}, s) + own;
  }
}`;

const incoming = (v: ScanVariant): string =>
  v.start
    ? `var s = vec2f();
  if (params.borders != 0u) { s = start[index]; } else { s = conj(start[b * params.states + p]); }`
    : "var s = vec2f();";

/** x_t = conj(a) x_{t-1} + v_t of a chunk; the last chunk also gives the state, which is the conjugate. */
export const scanForward = (v: ScanVariant): string => /* wgsl */ `
${head(false)}
  ${incoming(v)}
  for (var t = first; t < last; t++) {
    let at = place(b, t, p);
    s = cmul(a, s) + v[at];
    x[at] = s;
  }
  if (last == params.seq) { state_out[b * params.states + p] = conj(s); }
}`;

/**
 * lambda_t = g_t + a lambda_{t+1} of a chunk is the gradient of v_t; what a chunk adds to the pole's gradient goes to
 * partial[b, c, p], and the first chunk gives the state's.
 */
export const scanBackward = (v: ScanVariant & { readonly state: boolean }): string => /* wgsl */ `
${head(true)}
  ${incoming(v)}
  var total = vec2f();
  for (var t = last; t > first; t--) {
    let at = place(b, t - 1u, p);
    let lambda = v[at] + s;
    dv[at] = lambda;
    s = cmul(a, lambda);
    if (t > 1u) { total += cmul(conj(x[place(b, t - 2u, p)]), s); }
  }
  ${
    v.state
      ? `if (first == 0u) {
    total += cmul(state[b * params.states + p], s);
    d_state[b * params.states + p] = conj(s);
  }`
      : ""
  }
  partial[index] = vec4f(total.x, -6.283185307179586 * total.y, 0.0, 0.0);
}`;

const inputHead = /* wgsl */ `
${complexWgsl}`;

/** weight[2p, h], weight[2p + 1, h] = conj(f_p b[p, h]). */
export const inputForward = (): string => /* wgsl */ `
${inputHead}
${flatMain("i", "params.states * params.dim")}
  let p = i / params.dim;
  let value = conj(cmul(factor(pole[p]), b[i]));
  let at = 2u * p * params.dim + i % params.dim;
  weight[at] = value.x;
  weight[at + params.dim] = value.y;
}`;

/** A workgroup owns a state p: db[p, h] = conj(f_p) g[p, h] and d pole[p].zw = sum over h of conj(b[p, h]) g[p, h]. */
export const inputBackward = (): string => /* wgsl */ `
${inputHead}
var<workgroup> sums: array<vec2f, 64>;
${groupMain("p")}
  var total = vec2f();
  if (p < params.states) {
    let f = conj(factor(pole[p]));
    for (var h = lane; h < params.dim; h += 64u) {
      let at = 2u * p * params.dim + h;
      let g = conj(vec2f(grad[at], grad[at + params.dim]));
      db[p * params.dim + h] = cmul(f, g);
      total += cmul(conj(b[p * params.dim + h]), g);
    }
  }
  sums[lane] = total;
${foldLanes("sums")}
  if (lane == 0u && p < params.states) { d_pole[p] = vec4f(0.0, 0.0, sums[0]); }
}`;
