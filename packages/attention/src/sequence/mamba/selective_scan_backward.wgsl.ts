import { flatMain } from "@x/kernels";
import { riseWgsl, sigmoidWgsl } from "../state/functions.wgsl.js";
import { advance, head, LANES, prelude, STEP, stepSize, type ScanVariant } from "./selective_scan.wgsl.js";

/*
 * The selective scan backward: `scanBackwardPrepare` goes through the gate and the step's size, `scanBackwardSummary` and
 * `scanChunks` hand the state's gradient from the last chunk to the first, `scanBackward` walks every chunk back, and
 * `scanBackwardChannels` sums the chunks' gradients of the channels.
 *
 * An invocation of the first and the last owns one element (grids of B T D and D width invocations in workgroups of 64); of
 * the others a channel and a chunk, a workgroup 64 channels. Grid [ceil(D / 64), chunks, B], of the summary one chunk less.
 *
 * Bindings: those of the forward; dout, dz, g, s [B, T, D]: g is the gradient before the gate and then that of u, s the step
 * and then the gradient of delta; adjoint [B, chunks + 1, D, Q + 1] of vec4; sums [B, chunks, D]; dbc [ceil(D / 64), B, T, 2,
 * N], a part for each workgroup of channels; dchannels [D, width].
 */

/** Tokens whose gradients of b and c are summed over the lanes at a time. */
const FLUSH = 4;

/** Each element: s = the step, g = dout silu(z), dz = dout y silu'(z). */
export const scanBackwardPrepare = (v: ScanVariant & { gate: boolean }): string => /* wgsl */ `
${stepSize(v)}
${v.gate ? sigmoidWgsl : ""}
${flatMain("i", "params.count")}
  s[i] = step_size(delta[i], i % params.dim);
  ${
    v.gate
      ? `let gate = sigmoid(z[i]);
  g[i] = dout[i] * z[i] * gate;
  dz[i] = dout[i] * before_gate[i] * gate * (1.0 + z[i] * sigmoid(-z[i]));`
      : "g[i] = dout[i];"
  }
}`;

/**
 * adjoint [B, chunks + 1, D, Q + 1] of vec4: slot k holds what the loss says of the state before chunk k. Each chunk
 * but the first: what it adds from its own outputs, and the sum of its steps.
 */
export const scanBackwardSummary = (v: ScanVariant): string => /* wgsl */ `
${prelude(v)}
${head("group.y + 1u")}
  if (d >= params.dim) { return; }
  var m: array<vec4f, Q>;
  var a: array<vec4f, Q>;
  for (var q = 0u; q < quads(); q++) { a[q] = decay_quad(d, q); }
  var sum = 0.0;
  for (var t = last; t > first; t--) {
    let row = batch * params.rows + t - 1u;
    let at = row * params.dim + d;
    sum += s[at];
    for (var q = 0u; q < quads(); q++) { m[q] = exp(s[at] * a[q]) * fma(vec4f(g[at]), bc_quad(row, 1u, q), m[q]); }
  }
  sums[(batch * params.chunks + chunk) * params.dim + d] = sum;
  let to = ((batch * (params.chunks + 1u) + chunk) * params.dim + d) * (Q + 1u);
  for (var q = 0u; q < quads(); q++) { adjoint[to + q] = m[q]; }
}`;

/**
 * A workgroup owns 64 channels and a chunk, and walks it backwards, STEP tokens at a time: for each quad of states it
 * runs forward again from the state that was kept, then back with
 * lambda_t = c_t g_t + e^(dt a) lambda_{t+1}. g becomes du, s becomes ddelta; the incoming slot of the chunk in
 * adjoint becomes its part of (da, dSkip, ddeltaBias), slot 0 the incoming state's gradient. The gradients of b and c
 * are summed over the workgroup's channels: dbc [ceil(D / 64), B, T, 2, N]. Grid [ceil(D / 64), chunks, B].
 */
export const scanBackward = (v: ScanVariant & { carry: boolean }): string => /* wgsl */ `
const STEP = ${STEP}u;
const FLUSH = ${FLUSH}u;
const COLUMNS = ${2 * FLUSH}u;
const SHARE = ${LANES / (2 * FLUSH)}u;
var<workgroup> parts: array<vec4f, ${LANES * 2 * FLUSH}>; // [column, lane]
var<workgroup> partial: array<vec4f, ${LANES}>; // [column, SHARE]
${prelude(v)}
fn adjoint_at(b: u32, slot: u32, d: u32) -> u32 { return ((b * (params.chunks + 1u) + slot) * params.dim + d) * (Q + 1u); }
fn store_bc(at: u32, q: u32, value: vec4f) {
  ${
    v.vec
      ? "dbc[at * Q + q] = value;"
      : `let n = 4u * q;
  for (var i = 0u; i < min(4u, params.states - n); i++) { dbc[at * params.states + n + i] = value[i]; }`
  }
}
${v.softplus ? riseWgsl : ""}
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let live = group.x * ${LANES}u + lane < params.dim;
  let d = min(group.x * ${LANES}u + lane, params.dim - 1u);
  let chunk = group.y;
  let batch = group.z;
  let first = chunk * params.chunk;
  let last = min(first + params.chunk, params.rows);
  let own = adjoint_at(batch, chunk + 1u, d);
  var lambda: array<vec4f, Q>;
  var da: array<vec4f, Q>;
  if (live${v.carry ? "" : " && chunk + 1u < params.chunks"}) {
    for (var q = 0u; q < params.quads; q++) { lambda[q] = adjoint[own + q]; }
  }
  ${v.skip ? "let skip = channels[d * params.width + params.states];" : "let skip = 0.0;"}
  var dskip = 0.0;
  var dbias = 0.0;
  for (var k = (last - first + STEP - 1u) / STEP; k > 0u; k--) {
    let start = first + (k - 1u) * STEP;
    var us: array<f32, STEP>;
    var gs: array<f32, STEP>;
    var steps: array<f32, STEP>;
    var du: array<f32, STEP>;
    var ds: array<f32, STEP>;
    for (var i = 0u; i < params.step; i++) {
      // All are set: not every compiler clears a loop's variables anew.
      let inside = live && start + i < last;
      let at = (batch * params.rows + min(start + i, last - 1u)) * params.dim + d;
      us[i] = select(0.0, u[at], inside);
      gs[i] = select(0.0, g[at], inside);
      steps[i] = select(0.0, s[at], inside);
      du[i] = skip * gs[i];
      ds[i] = 0.0;
      dskip = fma(gs[i], us[i], dskip);
    }
    for (var q = 0u; q < params.quads; q++) {
      let a = decay_quad(d, q);
      var next = lambda[q];
      var da_q = da[q];
      var before: array<vec4f, STEP>;
      var x = select(vec4f(), kept[slot_at(batch, start / STEP, d) + q], live);
      for (var i = 0u; i < params.step; i++) {
        before[i] = x;
        let row = batch * params.rows + min(start + i, last - 1u);
        let dt = steps[i];
        let ut = us[i];
        let decay = dt * a;
        ${advance(v, "x", "decay")}
      }
      for (var end = params.step; end > 0u; end -= FLUSH) {
        for (var j = 0u; j < FLUSH; j++) {
          let i = end - 1u - j;
          let row = batch * params.rows + min(start + i, last - 1u);
          let b = bc_quad(row, 0u, q);
          let dt = steps[i];
          let decay = dt * a;
          let factor = exp(decay);
          let f = ${v.zoh ? "dt * phi(decay)" : "vec4f(dt)"};
          let faded = factor * before[i];
          let l = fma(vec4f(gs[i]), bc_quad(row, 1u, q), next);
          parts[2u * j * ${LANES}u + lane] = us[i] * f * l;
          parts[(2u * j + 1u) * ${LANES}u + lane] = gs[i] * fma(f * us[i], b, faded);
          du[i] += dot(l, f * b);
          ds[i] += dot(l, fma(a, faded, ${v.zoh ? "factor * " : ""}us[i] * b));
          da_q = fma(l, dt * ${v.zoh ? "fma(vec4f(dt * us[i]), phi_slope(decay) * b, faded)" : "faded"}, da_q);
          next = factor * l;
        }
        workgroupBarrier();
        var sum = vec4f();
        for (var r = lane % SHARE; r < ${LANES}u; r += SHARE) { sum += parts[lane / SHARE * ${LANES}u + r]; }
        partial[lane] = sum;
        workgroupBarrier();
        let t = start + end - 1u - lane / 2u;
        if (lane < COLUMNS && t < last) {
          var total = vec4f();
          for (var r = 0u; r < SHARE; r++) { total += partial[lane * SHARE + r]; }
          store_bc(((group.x * groups.z + batch) * params.rows + t) * 2u + lane % 2u, q, total);
        }
      }
      lambda[q] = next;
      da[q] = da_q;
    }
    for (var i = 0u; i < params.step; i++) {
      if (live && start + i < last) {
        let at = (batch * params.rows + start + i) * params.dim + d;
        let raw = ds[i]${v.softplus ? " * rise(steps[i])" : ""};
        dbias += raw;
        g[at] = du[i];
        s[at] = raw;
      }
    }
  }
  if (!live) { return; }
  for (var q = 0u; q < params.quads; q++) { adjoint[own + q] = da[q]; }
  adjoint[own + Q] = vec4f(dskip, dbias, 0.0, 0.0);
  if (chunk == 0u) {
    let to = adjoint_at(batch, 0u, d);
    for (var q = 0u; q < params.quads; q++) { adjoint[to + q] = lambda[q]; }
  }
}`;

/** dchannels [D, width]: the chunks' parts in adjoint, summed in order. */
export const scanBackwardChannels = (v: ScanVariant): string => /* wgsl */ `
${flatMain("i", "params.dim * params.width")}
  let column = i % params.width;
  let d = i / params.width;
  let place = select(${4 * v.quads}u + column - params.states${v.skip ? "" : " + 1u"}, column, column < params.states);
  var sum = 0.0;
  for (var b = 0u; b < params.batch; b++) {
    for (var k = 1u; k <= params.chunks; k++) {
      sum += adjoint[((b * (params.chunks + 1u) + k) * params.dim + d) * ${4 * (v.quads + 1)}u + place];
    }
  }
  dchannels[i] = sum;
}`;
