import { flatMain, type BindingSpec, type ParamType } from "@x/kernels";
import { bind } from "../../engine/wgsl/tile.wgsl.js";
import { head } from "./rows.wgsl.js";

/*
 * The recurrent form: token after token. An invocation owns a column of the state of one head and sequence, and walks all
 * tokens with it. Grid: count = batch heads valueDim invocations in workgroups of 64.
 *
 * Bindings: q, k [batch, groups, tokens, dim], v, out [batch, heads, tokens, valueDim], where their strides say; decay
 * [batch, heads, tokens] or [heads]; state and next [batch, heads, dim, valueDim], or with values first.
 */

export interface StepVariant {
  readonly state: boolean;
}

export const stepBindings = (v: StepVariant): Record<string, BindingSpec> => ({
  q: bind("read", "f32"),
  k: bind("read", "f32"),
  v: bind("read", "f32"),
  decay: bind("read", "f32"),
  ...(v.state ? { state: bind("read", "f32") } : {}),
  out: bind("write", "f32"),
  next: bind("read_write", "f32"),
});
export const stepParams: Record<string, ParamType> = {
  q_stride: "vec4<u32>",
  k_stride: "vec4<u32>",
  v_stride: "vec4<u32>",
  out_stride: "vec4<u32>",
  decay_stride: "vec4<u32>",
  heads: "u32",
  tokens: "u32",
  dim: "u32",
  value_dim: "u32",
  count: "u32",
  state_row: "u32",
  state_column: "u32",
  scale: "f32",
};

/** S_t = exp(decay_t) S_{t-1} + scale k_t^T v_t, out_t = q_t S_t: one invocation for a column of S, token after token. */
export const decayedSteps = (v: StepVariant): string => /* wgsl */ `
${head}
${flatMain("i", "params.count")}
  let e = i % params.value_dim;
  let h = i / params.value_dim % params.heads;
  let b = i / params.value_dim / params.heads;
  let column = i / params.value_dim * params.dim * params.value_dim + e * params.state_column;
  for (var t = 0u; t < params.tokens; t++) {
    let q_base = at(params.q_stride, b, h, t);
    let k_base = at(params.k_stride, b, h, t);
    let gain = exp(decay[at(params.decay_stride, b, h, t)]);
    let value = params.scale * v[at(params.v_stride, b, h, t) + e];
    var o = 0.0;
    for (var d = 0u; d < params.dim; d++) {
      let place = column + d * params.state_row;
      var s = ${v.state ? "0.0; if (t == 0u) { s = state[place]; } else { s = next[place]; }" : "0.0; if (t > 0u) { s = next[place]; }"}
      s = fma(gain, s, k[k_base + d] * value);
      next[place] = s;
      o = fma(q[q_base + d], s, o);
    }
    out[at(params.out_stride, b, h, t) + e] = o;
  }
}`;
