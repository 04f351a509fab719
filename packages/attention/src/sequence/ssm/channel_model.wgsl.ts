import { groupMain } from "@x/kernels";
import { complexWgsl } from "../convolution/complex.wgsl.js";

/*
 * Diagonal models, token after token. A workgroup of 64 invocations owns 64 / lanes channels of one sequence, an invocation
 * the states lane, lane + lanes, .. of one channel, from the first token to the last; outputs are summed over a channel's
 * invocations 16 tokens at a time. Grid: batch ceil(dim lanes / 64) workgroups, laid out in two dimensions.
 *
 * Bindings: u, out [batch, seq, dim]; pole [dim, states] of vec4<u32> (see `poles`); c [dim, states], state and state_out
 * [batch, dim, states] of vec2<f32>, the real and the imaginary part.
 */

/** Tokens whose outputs are summed over the states together. */
const TILE = 16;

export interface RecurrentVariant {
  /** Lanes of a channel, a power of two up to 64, and the states of each. */
  readonly lanes: number;
  readonly each: number;
  readonly state: boolean;
}

/**
 * x_t = a x_{t-1} + f u_t, out_t = 2 Re sum_n c_n x_{t,n}. A workgroup owns 64 / lanes channels of one sequence, a lane
 * some states of one channel, which it keeps in registers from the first token to the last.
 */
export const recurrent = ({ lanes, each, state }: RecurrentVariant): string => /* wgsl */ `
${complexWgsl}
const LANES = ${lanes}u;
const CHANNELS = ${64 / lanes}u;
var<workgroup> parts: array<f32, ${TILE * 64}>;
${groupMain("index")}
  let blocks = (params.dim + CHANNELS - 1u) / CHANNELS;
  let b = index / blocks;
  let first = index % blocks * CHANNELS;
  let h = first + lane / LANES;
  let inside = b < params.batch && h < params.dim;
  var a: array<vec2f, ${each}>;
  var f: array<vec2f, ${each}>;
  var weight: array<vec2f, ${each}>;
  var x: array<vec2f, ${each}>;
  for (var i = 0u; i < ${each}u; i++) {
    let n = lane % LANES + i * LANES;
    if (inside && n < params.states) {
      let at = h * params.states + n;
      a[i] = power(pole[at], 1u);
      f[i] = factor(pole[at]);
      weight[i] = 2.0 * c[at];
      ${state ? "x[i] = state[b * params.dim * params.states + at];" : ""}
    }
  }
  for (var tile = 0u; tile < params.seq; tile += ${TILE}u) {
    let count = min(${TILE}u, params.seq - tile);
    for (var t = 0u; t < count; t++) {
      var sum = 0.0;
      if (inside) {
        let value = u[(b * params.seq + tile + t) * params.dim + h];
        for (var i = 0u; i < ${each}u; i++) {
          x[i] = cmul(a[i], x[i]) + value * f[i];
          sum += weight[i].x * x[i].x - weight[i].y * x[i].y;
        }
      }
      parts[t * 64u + lane] = sum;
    }
    workgroupBarrier();
    for (var i = lane; i < count * CHANNELS; i += 64u) {
      let t = i / CHANNELS;
      let own = i % CHANNELS;
      if (b < params.batch && first + own < params.dim) {
        var total = 0.0;
        for (var n = 0u; n < LANES; n++) { total += parts[t * 64u + own * LANES + n]; }
        out[(b * params.seq + tile + t) * params.dim + first + own] = total;
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < ${each}u; i++) {
    let n = lane % LANES + i * LANES;
    if (inside && n < params.states) { state_out[(b * params.dim + h) * params.states + n] = x[i]; }
  }
}`;
