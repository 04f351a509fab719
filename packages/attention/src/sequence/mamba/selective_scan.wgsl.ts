import { flatMain } from "@x/kernels";
import type { ParamType } from "@x/kernels";
import { sigmoidWgsl, softplusWgsl } from "../state/functions.wgsl.js";

/*
 * The selective scan forward, its chunks, and what its kernels share. Where there is one chunk, `scanForward` alone runs;
 * else `scanSummary` sums up each chunk, `scanChunks` joins the sums, and `scanForward` starts each chunk from its state.
 *
 * An invocation of `scanForward` and `scanSummary` owns a channel d and a chunk of tokens, with the channel's states in
 * registers; a workgroup has 64 of them. Grid [ceil(D / 64), chunks, B], of the summary one chunk less. An invocation of
 * `scanChunks` owns one state of one channel; B D N invocations in workgroups of 64.
 *
 * Bindings: u, delta, z, before_gate, out [B, T, D]; bc [B, T, 2, N]: b, then c; channels [D, width]: a, then dSkip and
 * deltaBias where given; kept [B, slots, D, Q] of vec4, the states before some tokens; sums [B, chunks, D], of steps.
 */

/** Tokens between two states that are kept for the backward. */
export const STEP = 16;
/** Channels of a workgroup. */
export const LANES = 64;

/** What changes the text of the scan's kernels. */
export interface ScanVariant {
  /** Quads of states: ceil(N / 4). A channel's states stay in registers. */
  readonly quads: number;
  /** N is a multiple of 4: b and c are read as vec4. */
  readonly vec: boolean;
  readonly zoh: boolean;
  /** delta passes through softplus. */
  readonly softplus: boolean;
  /** Loops over quads have constant bounds, forward: a GPU keeps their arrays in registers; a CPU's compiler is slow. */
  readonly unroll: boolean;
  /** `channels` has a column dSkip. */
  readonly skip: boolean;
  /** `channels` has a last column deltaBias. */
  readonly bias: boolean;
}

export const scanParams: Record<string, ParamType> = {
  rows: "u32",
  dim: "u32",
  /** N. */
  states: "u32",
  /** Columns of `channels`. */
  width: "u32",
  /** Tokens of a chunk, which one invocation walks. */
  chunk: "u32",
  chunks: "u32",
  /** Tokens between two slots of `kept`; slot k holds the state before token k step, the last one the final state. */
  step: "u32",
  slots: "u32",
  /** ceil(N / 4). */
  quads: "u32",
};

/** Element of bc [B, T, 2, N]. */
export const bcElement = (v: ScanVariant): "f32" | "vec4<f32>" => (v.vec ? "vec4<f32>" : "f32");

/**
 * What all share: dims, where things lie, and the step. kept is [B, slots, D, Q] of vec4; channels is [D, width]: a,
 * then dSkip and deltaBias if there.
 */
export const prelude = (v: ScanVariant): string => /* wgsl */ `
const Q = ${v.quads}u;
fn quads() -> u32 { return ${v.unroll ? "Q" : "params.quads"}; }
${
  v.vec
    ? "fn bc_quad(row: u32, part: u32, q: u32) -> vec4f { return bc[(row * 2u + part) * Q + q]; }"
    : `fn bc_one(row: u32, part: u32, n: u32) -> f32 {
  return select(0.0, bc[(row * 2u + part) * params.states + min(n, params.states - 1u)], n < params.states);
}
fn bc_quad(row: u32, part: u32, q: u32) -> vec4f {
  let n = 4u * q;
  return vec4f(bc_one(row, part, n), bc_one(row, part, n + 1u), bc_one(row, part, n + 2u), bc_one(row, part, n + 3u));
}`
}
fn decay_one(d: u32, n: u32) -> f32 {
  return select(0.0, channels[d * params.width + min(n, params.states - 1u)], n < params.states);
}
fn decay_quad(d: u32, q: u32) -> vec4f {
  let n = 4u * q;
  return vec4f(decay_one(d, n), decay_one(d, n + 1u), decay_one(d, n + 2u), decay_one(d, n + 3u));
}
fn slot_at(b: u32, slot: u32, d: u32) -> u32 { return ((b * params.slots + slot) * params.dim + d) * Q; }
${v.zoh ? gain : ""}`;

/** (e^x - 1) / x and its derivative, by their series near 0, where the quotients cancel. */
const gain = /* wgsl */ `
fn phi(x: vec4f) -> vec4f {
  let near = 1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0 * (1.0 + x / 8.0))))));
  let small = abs(x) < vec4f(0.5);
  return select((exp(x) - 1.0) / select(x, vec4f(1.0), small), near, small);
}
fn phi_slope(x: vec4f) -> vec4f {
  let near = 1.0 / 2.0 + x * (1.0 / 3.0 + x * (1.0 / 8.0 + x * (1.0 / 30.0 + x * (1.0 / 144.0 + x * (1.0 / 840.0 + x * (1.0 / 5760.0 + x / 45360.0))))));
  let small = abs(x) < vec4f(0.5);
  let far = select(x, vec4f(1.0), small);
  return select(((x - 1.0) * exp(x) + 1.0) / (far * far), near, small);
}`;

export const stepSize = (v: ScanVariant): string => /* wgsl */ `
${v.softplus ? softplusWgsl : ""}
fn step_size(raw: f32, d: u32) -> f32 {
  let x = raw${v.bias ? " + channels[d * params.width + params.width - 1u]" : ""};
  return ${v.softplus ? "softplus(x)" : "x"};
}`;

/** The invocation's channel d, chunk and batch, and its tokens first..last. */
export const head = (chunkOf = "group.y"): string => /* wgsl */ `
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let d = group.x * ${LANES}u + lane;
  let chunk = ${chunkOf};
  let batch = group.z;
  let first = chunk * params.chunk;
  let last = min(first + params.chunk, params.rows);`;

/** x <- e^(dt a) x + f b u, with `decay` = dt a. */
export const advance = (v: ScanVariant, x: string, decay: string): string =>
  v.zoh
    ? `${x} = fma(exp(${decay}), ${x}, (dt * ut) * phi(${decay}) * bc_quad(row, 0u, q));`
    : `${x} = fma(exp(${decay}), ${x}, (dt * ut) * bc_quad(row, 0u, q));`;

export interface ForwardVariant extends ScanVariant {
  /** A state comes in: slot 0 is filled. */
  readonly carry: boolean;
  readonly gate: boolean;
  /** A backward will come: keep states every STEP tokens, and y before the gate. */
  readonly keep: boolean;
}

/** One invocation owns a channel and a chunk of tokens; grid [ceil(D / 64), chunks, B]. */
export const scanForward = (v: ForwardVariant): string => /* wgsl */ `
${prelude(v)}
${stepSize(v)}
${v.gate ? sigmoidWgsl : ""}
${head()}
  if (d >= params.dim) { return; }
  var x: array<vec4f, Q>;
  var a: array<vec4f, Q>;
  let from_ = slot_at(batch, first / params.step, d);
  for (var q = 0u; q < quads(); q++) {
    a[q] = decay_quad(d, q);
    x[q] = ${v.carry ? "kept[from_ + q]" : "vec4f()"};
    ${v.carry ? "" : "if (chunk > 0u) { x[q] = kept[from_ + q]; }"}
  }
  ${v.skip ? "let skip = channels[d * params.width + params.states];" : ""}
  for (var t = first; t < last; t++) {
    ${
      v.keep
        ? `if (t % params.step == 0u) {
      let to = slot_at(batch, t / params.step, d);
      for (var q = 0u; q < quads(); q++) { kept[to + q] = x[q]; }
    }`
        : ""
    }
    let row = batch * params.rows + t;
    let at = row * params.dim + d;
    let dt = step_size(delta[at], d);
    let ut = u[at];
    var y = vec4f();
    for (var q = 0u; q < quads(); q++) {
      let decay = dt * a[q];
      ${advance(v, "x[q]", "decay")}
      y = fma(bc_quad(row, 1u, q), x[q], y);
    }
    let total = (y.x + y.y) + (y.z + y.w)${v.skip ? " + skip * ut" : ""};
    ${v.gate && v.keep ? "before_gate[at] = total;" : ""}
    out[at] = total${v.gate ? " * z[at] * sigmoid(z[at])" : ""};
  }
  if (last == params.rows) {
    let to = slot_at(batch, params.slots - 1u, d);
    for (var q = 0u; q < quads(); q++) { kept[to + q] = x[q]; }
  }
}`;

/** Each chunk but the last: its end from an empty state goes to the next chunk's slot, the sum of its steps to sums [B, chunks, D]. */
export const scanSummary = (v: ScanVariant): string => /* wgsl */ `
${prelude(v)}
${stepSize(v)}
${head()}
  if (d >= params.dim) { return; }
  var x: array<vec4f, Q>;
  var a: array<vec4f, Q>;
  for (var q = 0u; q < quads(); q++) { a[q] = decay_quad(d, q); }
  var sum = 0.0;
  for (var t = first; t < last; t++) {
    let row = batch * params.rows + t;
    let at = row * params.dim + d;
    let dt = step_size(delta[at], d);
    let ut = u[at];
    sum += dt;
    for (var q = 0u; q < quads(); q++) {
      let decay = dt * a[q];
      ${advance(v, "x[q]", "decay")}
    }
  }
  sums[(batch * params.chunks + chunk) * params.dim + d] = sum;
  let to = slot_at(batch, last / params.step, d);
  for (var q = 0u; q < quads(); q++) { kept[to + q] = x[q]; }
}`;

export const chunkParams: Record<string, ParamType> = {
  ...scanParams,
  /** Slots from chunk to chunk; \`quads\` are those of a channel in a slot. */
  stride: "u32",
  batch: "u32",
};

export interface ChunkVariant {
  /** From the last chunk to the first. */
  readonly reverse: boolean;
  /** There is something before the first chunk (after the last one). */
  readonly carry: boolean;
}

/** One invocation owns one state of a channel: value = e^(a sum of steps) value + the chunk's own, from chunk to chunk. */
export const scanChunks = (v: ChunkVariant): string => /* wgsl */ `
fn place(b: u32, slot: u32, d: u32) -> u32 { return ((b * params.slots + slot * params.stride) * params.dim + d) * 4u * params.quads; }
${flatMain("i")}
  let n = i % params.states;
  let d = i / params.states % params.dim;
  let b = i / params.states / params.dim;
  if (b >= params.batch) { return; }
  let a = channels[d * params.width + n];
  var value = ${v.carry ? `kept[place(b, ${v.reverse ? "params.chunks" : "0u"}, d) + n]` : "0.0"};
  for (var k = 1u; k < params.chunks; k++) {
    let chunk = ${v.reverse ? "params.chunks - k" : "k - 1u"};
    let at = place(b, ${v.reverse ? "chunk" : "k"}, d) + n;
    value = fma(exp(a * sums[(b * params.chunks + chunk) * params.dim + d]), value, kept[at]);
    kept[at] = value;
  }
}`;
