import type { BindingSpec, ParamType } from "@x/kernels";
import { bind } from "../../engine/wgsl/tile.wgsl.js";

/*
 * The gradients of decays. A workgroup of `headDecayGradient` owns a chunk of one head, grid [chunks, heads, batch]; one of
 * `channelDecayGradient` 64 channels of a chunk of one head, grid [chunks ceil(dim / 64), heads, batch]. What an invocation owns
 * changes on the way: see each.
 *
 * Bindings: x, k [batch, heads, tokens, dim], y, v [batch, heads, tokens, valueDim], decay and out [batch, heads, tokens], of
 * channels [batch, heads, tokens, dim], each where its strides say; states before and dstates after each chunk [batch, heads,
 * chunks, dim, valueDim].
 */

/** The most tokens of a chunk whose pairs one workgroup holds. */
export const PAIRS = 64;

/** Columns whose products a lane of `headDecayGradient` sums at a time. */
const COLUMNS = 8;

export interface DecayGradientVariant {
  /** A state comes into each chunk. */
  readonly state: boolean;
  /** A gradient reaches the state after each chunk. */
  readonly border: boolean;
  /** The sum is added to what `out` holds: a state that is read more than once has a dispatch for each reader. */
  readonly add: boolean;
}

/** Strides are those of batch, head and token, then how many heads share a head. */
const params: Record<string, ParamType> = {
  x_stride: "vec4<u32>",
  y_stride: "vec4<u32>",
  k_stride: "vec4<u32>",
  v_stride: "vec4<u32>",
  decay_stride: "vec4<u32>",
  out_stride: "vec4<u32>",
  heads: "u32",
  tokens: "u32",
  chunk: "u32",
  chunks: "u32",
  /** From head to head in the states and their gradients, in states; and the gradient after the first chunk. */
  slots: "u32",
  after_first: "u32",
  /** Where the first token of x and y lies. */
  x_offset: "u32",
  y_offset: "u32",
  dim: "u32",
  value_dim: "u32",
  /** Steps of the state's keys and values. */
  state_row: "u32",
  state_column: "u32",
  x_scale: "f32",
  k_scale: "f32",
};

export const headDecayParams: Record<string, ParamType> = params;
export const channelDecayParams: Record<string, ParamType> = {
  ...params,
  /** Blocks of 64 channels. */
  blocks: "u32",
  /** Tokens from that after which the state is read to that which reads it. */
  shift: "u32",
};

export const decayGradientBindings = (v: DecayGradientVariant): Record<string, BindingSpec> => ({
  x: bind("read", "f32"),
  y: bind("read", "f32"),
  k: bind("read", "f32"),
  v: bind("read", "f32"),
  decay: bind("read", "f32"),
  ...(v.state ? { states: bind("read", "f32") } : {}),
  ...(v.border ? { dstates: bind("read", "f32") } : {}),
  out: bind(v.add ? "read_write" : "write", "f32"),
});

const at = /* wgsl */ `
fn at(stride: vec4u, b: u32, h: u32, t: u32) -> u32 { return b * stride.x + h / stride.w * stride.y + t * stride.z; }`;

/**
 * The gradient of the log decay l of each head and token, where S_t = e^(l_t) S_{t-1} + k_scale k_t^T v_t is read by
 * x_scale x_t S_t with the cotangent y_t. Within a chunk, a pair of tokens u < s has the term
 * w_su (x_s . k_u) (y_s . v_u), w_su = e^(sum of l over u+1..s), and
 *
 *   dl_t = sum of the terms of all u < t <= s,
 *
 * where the state before the chunk stands for all earlier u, and the gradient of the state after it for all later s.
 * Each term has the decay of token t in it: no difference of sums is taken, and a state that forgets all has the gradient 0.
 *
 * One workgroup has a chunk of one head; a lane first has a row of pairs (a token s), then a token t.
 */
export const headDecayGradient = (v: DecayGradientVariant): string => /* wgsl */ `
${at}
var<workgroup> pairs: array<f32, ${(PAIRS * (PAIRS - 1)) / 2}>; // row s has its u < s from s (s - 1) / 2 on
var<workgroup> from_start: array<f32, ${PAIRS}>;
var<workgroup> to_end: array<f32, ${PAIRS}>;
var<workgroup> through: array<f32, ${PAIRS}>;
@compute @workgroup_size(${PAIRS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let h = group.y;
  let first = group.x * params.chunk;
  let last = min(first + params.chunk, params.tokens);
  let count = last - first;
  let row = min(first + lane, last - 1u);
  let live = lane < count;
  let base = lane * (max(lane, 1u) - 1u) / 2u;
  let x_base = params.x_offset + at(params.x_stride, b, h, row);
  let y_base = params.y_offset + at(params.y_stride, b, h, row);
  let scale = params.x_scale * params.k_scale;
  var total = 0.0;
  for (var block = (count + ${COLUMNS - 1}u) / ${COLUMNS}u; block > 0u; block--) {
    let c0 = (block - 1u) * ${COLUMNS}u;
    var keys: array<u32, ${COLUMNS}>;
    var values: array<u32, ${COLUMNS}>;
    var xk: array<f32, ${COLUMNS}>;
    var yv: array<f32, ${COLUMNS}>;
    for (var j = 0u; j < ${COLUMNS}u; j++) {
      let u = min(first + c0 + j, last - 1u);
      keys[j] = at(params.k_stride, b, h, u);
      values[j] = at(params.v_stride, b, h, u);
      xk[j] = 0.0;
      yv[j] = 0.0;
    }
    for (var d = 0u; d < params.dim; d++) {
      let own = x[x_base + d];
      for (var j = 0u; j < ${COLUMNS}u; j++) { xk[j] = fma(own, k[keys[j] + d], xk[j]); }
    }
    for (var e = 0u; e < params.value_dim; e++) {
      let own = y[y_base + e];
      for (var j = 0u; j < ${COLUMNS}u; j++) { yv[j] = fma(own, v[values[j] + e], yv[j]); }
    }
    for (var n = ${COLUMNS}u; n > 0u; n--) {
      let u = c0 + n - 1u;
      if (live && u < lane) {
        total += decay[at(params.decay_stride, b, h, first + u + 1u)];
        pairs[base + u] = scale * xk[n - 1u] * yv[n - 1u] * exp(total);
      }
    }
  }
  total += decay[at(params.decay_stride, b, h, first)];
  let slot = (b * params.heads + h) * params.slots + group.x;
  let matrix = slot * params.dim * params.value_dim;
  ${v.border ? "let gradient = (slot + params.after_first) * params.dim * params.value_dim;" : ""}
  var begin = 0.0;
  ${
    v.state
      ? /* wgsl */ `
  for (var d = 0u; d < params.dim; d++) {
    var sum = 0.0;
    for (var e = 0u; e < params.value_dim; e++) {
      sum = fma(states[matrix + d * params.state_row + e * params.state_column], y[y_base + e], sum);
    }
    begin = fma(x[x_base + d], sum, begin);
  }
  begin *= params.x_scale * exp(total);`
      : ""
  }
  ${
    v.border
      ? /* wgsl */ `
  var fade = 0.0;
  for (var t = last - 1u; t > row; t--) { fade += decay[at(params.decay_stride, b, h, t)]; }
  let k_base = at(params.k_stride, b, h, row);
  let v_base = at(params.v_stride, b, h, row);
  var end = 0.0;
  for (var d = 0u; d < params.dim; d++) {
    var sum = 0.0;
    for (var e = 0u; e < params.value_dim; e++) {
      sum = fma(dstates[gradient + d * params.state_row + e * params.state_column], v[v_base + e], sum);
    }
    end = fma(k[k_base + d], sum, end);
  }
  to_end[lane] = params.k_scale * exp(fade) * end;`
      : ""
  }
  ${
    v.border && v.state
      ? /* wgsl */ `
  fade += decay[at(params.decay_stride, b, h, row)];
  var both = 0.0;
  for (var i = lane; i < params.dim * params.value_dim; i += ${PAIRS}u) { both = fma(states[matrix + i], dstates[gradient + i], both); }
  through[lane] = both;
  if (lane == 0u) { from_start[0] = exp(fade); }
  workgroupBarrier();
  let whole = from_start[0];
  workgroupBarrier();`
      : ""
  }
  // Each row's terms of all u < t, for every t.
  var run = begin;
  from_start[lane] = run;
  if (live) { for (var u = 0u; u < lane; u++) { run += pairs[base + u]; pairs[base + u] = run; } }
  workgroupBarrier();
  if (!live) { return; }
  var sum = 0.0;
  for (var s = lane; s < count; s++) {
    if (lane == 0u) { sum += from_start[s]; } else { sum += pairs[s * (s - 1u) / 2u + lane - 1u]; }
  }
  ${v.border ? "for (var u = 0u; u < lane; u++) { sum += to_end[u]; }" : ""}
  ${
    v.border && v.state
      ? /* wgsl */ `
  var all = 0.0;
  for (var i = 0u; i < ${PAIRS}u; i++) { all += through[i]; }
  sum = fma(whole, all, sum);`
      : ""
  }
  let to = at(params.out_stride, b, h, first + lane);
  out[to] = ${v.add ? "out[to] + sum" : "sum"};
}`;

/**
 * The gradient of the decay itself (not of its logarithm) of each channel d of the keys, where
 * S_t = diag(decay_t) S_{t-1} + k_scale k_t^T v_t is read by x_scale x S_t at token t + shift, with the cotangent y there:
 * with B_st = y_s . (row d of S_{t-1}), which each s > t takes on by Horner's rule from token to token,
 *
 *   ddecay_t = sum_{s >= t} x_s,d (product of the decays of t+1..s) B_st,
 *
 * where the gradient of the state after the chunk stands for all later s. Products are of decays alone, and no difference of
 * sums is taken.
 *
 * One workgroup has 64 channels of a chunk of one head; a lane first has tokens u of the products y_s . v_u, then a channel.
 */
export const channelDecayGradient = (v: DecayGradientVariant): string => /* wgsl */ `
${at}
var<workgroup> pairs: array<f32, ${(PAIRS * (PAIRS - 1)) / 2}>; // row s has its u < s from s (s - 1) / 2 on
@compute @workgroup_size(${PAIRS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let h = group.y;
  let chunk = group.x / params.blocks;
  let d = group.x % params.blocks * ${PAIRS}u + lane;
  let first = chunk * params.chunk;
  let last = min(first + params.chunk, params.tokens);
  let count = last - first;
  // States of the chunk that a token of the chunk reads.
  let read = count - params.shift;
  for (var s = 1u; s < read; s++) {
    if (lane < s) {
      let y_base = params.y_offset + at(params.y_stride, b, h, first + s + params.shift);
      let v_base = at(params.v_stride, b, h, first + lane);
      var sum = 0.0;
      for (var e = 0u; e < params.value_dim; e++) { sum = fma(y[y_base + e], v[v_base + e], sum); }
      pairs[s * (s - 1u) / 2u + lane] = sum;
    }
  }
  workgroupBarrier();
  if (d >= params.dim) { return; }
  let slot = (b * params.heads + h) * params.slots + chunk;
  let matrix = (slot * params.dim + d) * params.value_dim;
  ${v.border ? "let gradient = ((slot + params.after_first) * params.dim + d) * params.value_dim;" : ""}
  var seen: array<f32, ${PAIRS}>;
  for (var s = 0u; s < read; s++) {
    var sum = 0.0;
    ${
      v.state
        ? /* wgsl */ `let y_base = params.y_offset + at(params.y_stride, b, h, first + s + params.shift);
    for (var e = 0u; e < params.value_dim; e++) { sum = fma(y[y_base + e], states[matrix + e], sum); }`
        : ""
    }
    seen[s] = sum;
  }
  ${
    v.border
      ? /* wgsl */ `var after = 0.0;
  ${v.state ? "for (var e = 0u; e < params.value_dim; e++) { after = fma(states[matrix + e], dstates[gradient + e], after); }" : ""}`
      : ""
  }
  for (var t = 0u; t < count; t++) {
    let own = decay[at(params.decay_stride, b, h, first + t) + d];
    let key = params.k_scale * k[at(params.k_stride, b, h, first + t) + d];
    var weight = 1.0;
    var sum = 0.0;
    for (var s = t; s < read; s++) {
      if (s > t) { weight *= decay[at(params.decay_stride, b, h, first + s) + d]; }
      sum = fma(params.x_scale * x[params.x_offset + at(params.x_stride, b, h, first + s + params.shift) + d] * weight, seen[s], sum);
      if (s > t) { seen[s] = fma(own, seen[s], key * pairs[s * (s - 1u) / 2u + t]); }
    }
    ${
      v.border
        ? /* wgsl */ `for (var s = max(read, t + 1u); s < count; s++) { weight *= decay[at(params.decay_stride, b, h, first + s) + d]; }
    sum = fma(weight, after, sum);
    let v_base = at(params.v_stride, b, h, first + t);
    var enters = 0.0;
    for (var e = 0u; e < params.value_dim; e++) { enters = fma(dstates[gradient + e], v[v_base + e], enters); }
    after = fma(own, after, key * enters);`
        : ""
    }
    let to = at(params.out_stride, b, h, first + t) + d;
    out[to] = ${v.add ? "out[to] + sum" : "sum"};
  }
}`;
