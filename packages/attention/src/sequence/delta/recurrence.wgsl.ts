import { flatMain, type BindingSpec, type ParamType } from "@x/kernels";
import { bind } from "../../engine/wgsl/tile.wgsl.js";

/*
 * Memories of keys and values, from which what stands at a key may be erased first. Forward and back over the whole sequence an
 * invocation owns a column of the state of one head; the gradients of q and k are taken by rows, an invocation owning a row of
 * the state of one chunk and head. Grids: batch heads valueDim, and batch heads chunks dim invocations, in workgroups of 64.
 *
 * Bindings: q, k, dq, dk [batch, heads, tokens, dim]; v, out, dout, missing, enters, denters, dv [batch, heads, tokens,
 * valueDim]; beta [batch, heads, tokens]; gain [batch, heads, tokens] or [batch, heads, tokens, dim]: each where its strides
 * say, and q, k, out and dout with their number of heads. states and dstates [batch, heads, slots, dim, valueDim].
 */

export interface RecurrenceVariant {
  /** Elements that an invocation holds: of a column of the state dim, of a row valueDim. */
  readonly held: number;
  /** Loops over them have constant bounds: a GPU keeps them in registers; a CPU's compiler is slow. */
  readonly unroll: boolean;
  /** What stands at a key is erased before something is written there. */
  readonly erases: boolean;
  /** One decay for a head and token, one for each channel of the keys, or none. */
  readonly decay: "none" | "head" | "channel";
  /** The state of each chunk is kept; else only the last one. */
  readonly keep: boolean;
}

export const recurrenceParams: Record<string, ParamType> = {
  q_stride: "vec4<u32>",
  k_stride: "vec4<u32>",
  /** Of v and of what enters the state. */
  v_stride: "vec4<u32>",
  /** Of the output and its gradient; and of the gradient of q. */
  out_stride: "vec4<u32>",
  dq_stride: "vec4<u32>",
  dk_stride: "vec4<u32>",
  gain_stride: "vec4<u32>",
  beta_stride: "vec4<u32>",
  /** Queries that read one state, and the steps between them in q, in the output and in the gradient of q. */
  reads: "u32",
  q_read: "u32",
  out_read: "u32",
  dq_read: "u32",
  heads: "u32",
  tokens: "u32",
  chunk: "u32",
  chunks: "u32",
  /** States of a head that are kept: that before each chunk, and the last. */
  slots: "u32",
  dim: "u32",
  value_dim: "u32",
  count: "u32",
  scale: "f32",
};

/** Strides are those of batch, head and token, then how many heads share a head. */
const prelude = /* wgsl */ `
fn at(stride: vec4u, b: u32, h: u32, t: u32) -> u32 { return b * stride.x + h / stride.w * stride.y + t * stride.z; }`;

/** `i` is a column e of the state of head h and sequence b. */
const column = /* wgsl */ `
${flatMain("i", "params.count")}
  let e = i % params.value_dim;
  let h = i / params.value_dim % params.heads;
  let b = i / params.value_dim / params.heads;
  let size = params.dim * params.value_dim;
  let own = (b * params.heads + h) * params.slots * size + e;`;

/** `i` is a row d of the state of a chunk of head h and sequence b. */
const row = /* wgsl */ `
${flatMain("i", "params.count")}
  let d = i % params.dim;
  let c = i / params.dim % params.chunks;
  let h = i / params.dim / params.chunks % params.heads;
  let b = i / params.dim / params.chunks / params.heads;
  let first = c * params.chunk;
  let last = min(first + params.chunk, params.tokens);
  let own = (((b * params.heads + h) * params.slots + c) * params.dim + d) * params.value_dim;`;

const each = (v: RecurrenceVariant, index: string, bound: string, body: string): string =>
  `for (var ${index} = 0u; ${index} < ${v.unroll ? `${v.held}u` : bound}; ${index}++) { ${body} }`;
const alongColumn = (v: RecurrenceVariant, body: string): string => each(v, "d", "params.dim", body);
const alongRow = (v: RecurrenceVariant, body: string): string => each(v, "e", "params.value_dim", body);
const gainAt = (v: RecurrenceVariant): string =>
  v.decay === "none" ? "" : "let gain_base = at(params.gain_stride, b, h, t);";
const gain = (v: RecurrenceVariant): string =>
  v.decay === "none" ? "1.0" : v.decay === "head" ? "gain[gain_base]" : "gain[gain_base + d]";

const given = (v: RecurrenceVariant): Record<string, BindingSpec> => ({
  ...(v.erases ? { beta: bind("read", "f32") } : {}),
  ...(v.decay === "none" ? {} : { gain: bind("read", "f32") }),
});

export const forwardBindings = (v: RecurrenceVariant): Record<string, BindingSpec> => ({
  q: bind("read", "f32"),
  k: bind("read", "f32"),
  v: bind("read", "f32"),
  ...given(v),
  out: bind("write", "f32"),
  ...(v.erases && v.keep ? { missing: bind("write", "f32") } : {}),
  states: bind("read_write", "f32"),
});

/**
 * S' = gain S, missing = v - k S' (v itself where nothing is erased), S = S' + k^T (beta missing), out = scale q S: an
 * invocation walks all tokens with a column of S, from the first slot of `states`.
 */
export const recurrenceForward = (v: RecurrenceVariant): string => /* wgsl */ `
${prelude}
${column}
  var s: array<f32, ${v.held}>;
  ${alongColumn(v, "s[d] = states[own + d * params.value_dim];")}
  for (var t = 0u; t < params.tokens; t++) {
    ${
      v.keep
        ? /* wgsl */ `if (t > 0u && t % params.chunk == 0u) {
      let slot = own + t / params.chunk * size;
      ${alongColumn(v, "states[slot + d * params.value_dim] = s[d];")}
    }`
        : ""
    }
    let k_base = at(params.k_stride, b, h, t);
    let v_at = at(params.v_stride, b, h, t) + e;
    ${gainAt(v)}
    var found = 0.0;
    ${alongColumn(v, `s[d] *= ${gain(v)}; ${v.erases ? "found = fma(k[k_base + d], s[d], found);" : ""}`)}
    ${
      v.erases
        ? /* wgsl */ `let rest = v[v_at] - found;
    ${v.keep ? "missing[v_at] = rest;" : ""}
    let enters = beta[at(params.beta_stride, b, h, t)] * rest;`
        : "let enters = v[v_at];"
    }
    ${alongColumn(v, "s[d] = fma(k[k_base + d], enters, s[d]);")}
    for (var r = 0u; r < params.reads; r++) {
      let q_base = at(params.q_stride, b, h, t) + r * params.q_read;
      var sum = 0.0;
      ${alongColumn(v, "sum = fma(q[q_base + d], s[d], sum);")}
      out[at(params.out_stride, b, h, t) + r * params.out_read + e] = params.scale * sum;
    }
  }
  let end = own + (params.slots - 1u) * size;
  ${alongColumn(v, "states[end + d * params.value_dim] = s[d];")}
}`;

export const columnsBackBindings = (v: RecurrenceVariant): Record<string, BindingSpec> => ({
  q: bind("read", "f32"),
  k: bind("read", "f32"),
  dout: bind("read", "f32"),
  ...given(v),
  denters: bind("write", "f32"),
  dstates: bind("read_write", "f32"),
});

/**
 * The gradient D of the state, from the last token to the first, by columns: D += scale q^T dout, denters = k D,
 * D' = D - k^T (beta denters), then D = gain D'. The last slot of `dstates` holds the gradient of the last state; each
 * other slot receives that of the state before its chunk.
 */
export const recurrenceColumnsBack = (v: RecurrenceVariant): string => /* wgsl */ `
${prelude}
${column}
  var s: array<f32, ${v.held}>;
  let end = own + (params.slots - 1u) * size;
  ${alongColumn(v, "s[d] = dstates[end + d * params.value_dim];")}
  for (var left = params.tokens; left > 0u; left--) {
    let t = left - 1u;
    let k_base = at(params.k_stride, b, h, t);
    ${gainAt(v)}
    for (var r = 0u; r < params.reads; r++) {
      let q_base = at(params.q_stride, b, h, t) + r * params.q_read;
      let g = params.scale * dout[at(params.out_stride, b, h, t) + r * params.out_read + e];
      ${alongColumn(v, "s[d] = fma(q[q_base + d], g, s[d]);")}
    }
    var sum = 0.0;
    ${alongColumn(v, "sum = fma(k[k_base + d], s[d], sum);")}
    denters[at(params.v_stride, b, h, t) + e] = sum;
    ${v.erases ? "let erased = beta[at(params.beta_stride, b, h, t)] * sum;" : ""}
    ${alongColumn(v, v.erases ? `s[d] = ${gain(v)} * fma(-k[k_base + d], erased, s[d]);` : `s[d] *= ${gain(v)};`)}
    if (t % params.chunk == 0u) {
      let slot = own + t / params.chunk * size;
      ${alongColumn(v, "dstates[slot + d * params.value_dim] = s[d];")}
    }
  }
}`;

export const rowsBackBindings = (v: RecurrenceVariant): Record<string, BindingSpec> => ({
  q: bind("read", "f32"),
  dout: bind("read", "f32"),
  enters: bind("read", "f32"),
  ...(v.erases ? { k: bind("read", "f32"), dv: bind("read", "f32") } : {}),
  ...(v.decay === "none" ? {} : { gain: bind("read", "f32") }),
  dstates: bind("read", "f32"),
  dk: bind("write", "f32"),
});

/** The same D by rows, each chunk from the slot after it: dk = enters D, without what the erasing adds. */
export const recurrenceRowsBack = (v: RecurrenceVariant): string => /* wgsl */ `
${prelude}
${row}
  var s: array<f32, ${v.held}>;
  let after = own + params.dim * params.value_dim;
  ${alongRow(v, "s[e] = dstates[after + e];")}
  for (var left = last; left > first; left--) {
    let t = left - 1u;
    let v_base = at(params.v_stride, b, h, t);
    ${gainAt(v)}
    for (var r = 0u; r < params.reads; r++) {
      let own_q = params.scale * q[at(params.q_stride, b, h, t) + r * params.q_read + d];
      let g_base = at(params.out_stride, b, h, t) + r * params.out_read;
      ${alongRow(v, "s[e] = fma(own_q, dout[g_base + e], s[e]);")}
    }
    var sum = 0.0;
    ${v.erases ? "let key = k[at(params.k_stride, b, h, t) + d];" : ""}
    ${v.decay === "none" ? "" : `let fade = ${gain(v)};`}
    ${alongRow(
      v,
      `sum = fma(enters[v_base + e], s[e], sum);
      s[e] = ${v.decay === "none" ? "" : "fade * "}${v.erases ? "fma(-key, dv[v_base + e], s[e])" : "s[e]"};`,
    )}
    dk[at(params.dk_stride, b, h, t) + d] = sum;
  }
}`;

export const rowsBindings = (v: RecurrenceVariant): Record<string, BindingSpec> => ({
  k: bind("read", "f32"),
  enters: bind("read", "f32"),
  dout: bind("read", "f32"),
  ...(v.erases ? { dv: bind("read", "f32"), dk: bind("read_write", "f32") } : {}),
  ...(v.decay === "none" ? {} : { gain: bind("read", "f32") }),
  states: bind("read", "f32"),
  dq: bind("write", "f32"),
});

/** S by rows, each chunk from its slot: dq = scale dout S, and of the erasing dk -= dv S'. */
export const recurrenceRows = (v: RecurrenceVariant): string => /* wgsl */ `
${prelude}
${row}
  var s: array<f32, ${v.held}>;
  ${alongRow(v, "s[e] = states[own + e];")}
  for (var t = first; t < last; t++) {
    let v_base = at(params.v_stride, b, h, t);
    let key = k[at(params.k_stride, b, h, t) + d];
    ${gainAt(v)}
    ${v.decay === "none" ? "" : `let fade = ${gain(v)};`}
    var erased = 0.0;
    ${alongRow(
      v,
      `${v.decay === "none" ? "" : "s[e] *= fade;"}
      ${v.erases ? "erased = fma(dv[v_base + e], s[e], erased);" : ""}
      s[e] = fma(key, enters[v_base + e], s[e]);`,
    )}
    ${v.erases ? "dk[at(params.dk_stride, b, h, t) + d] -= erased;" : ""}
    for (var r = 0u; r < params.reads; r++) {
      let g_base = at(params.out_stride, b, h, t) + r * params.out_read;
      var sum = 0.0;
      ${alongRow(v, "sum = fma(dout[g_base + e], s[e], sum);")}
      dq[at(params.dq_stride, b, h, t) + r * params.dq_read + d] = params.scale * sum;
    }
  }
}`;
