import { flatMain } from "@x/kernels";
import type { ParamType } from "@x/kernels";

/*
 * RWKV-4's WKV. Where there are more chunks than one, `wkvEnds` walks each chunk by itself, `wkvCarry` joins the chunks, and
 * `wkvForward` starts each from its state; the backward does the same from the last chunk to the first.
 *
 * An invocation owns a channel and a chunk of tokens, of the carry a channel of one sequence, and of `wkvBackwardChannels` one
 * element of the result. Grids: batch chunks width, batch width and 2 width invocations, in workgroups of 64.
 *
 * Bindings: k, v, out, g, dk, dv [batch, rows, width]; channels and dchannels [2, width]: timeDecay, then timeFirst; kept
 * [batch, slots, width, 3] and adjoint [batch, chunks + 1, width, 3]: (num, den, top) of a state.
 */

/** Tokens between two states that are kept for the backward. */
export const STEP = 16;

export interface WkvVariant {
  /** A state comes in: slot 0 of `kept` is filled. */
  readonly start: boolean;
}

export const wkvParams: Record<string, ParamType> = {
  batch: "u32",
  rows: "u32",
  width: "u32",
  chunk: "u32",
  chunks: "u32",
  /** Tokens between two slots of `kept`; the last slot holds the final state. */
  step: "u32",
  slots: "u32",
  /** Slots from chunk to chunk. */
  stride: "u32",
};

/**
 * A state stands for (num, den) e^top. Joining two and letting one fade are all that forward and backward do: a token
 * is (v, 1) e^k, and fades by w a token. The rows of channels are timeDecay = ln w and timeFirst = u; kept is
 * [B, slots, A, 3].
 */
const prelude = /* wgsl */ `
struct State { num: f32, den: f32, top: f32 }
fn nothing() -> State { return State(0.0, 0.0, -1e38); }
fn joined(a: State, b: State) -> State {
  let top = max(a.top, b.top);
  let x = exp(a.top - top);
  let y = exp(b.top - top);
  return State(fma(x, a.num, y * b.num), fma(x, a.den, y * b.den), top);
}
fn faded(s: State, by: f32) -> State { return State(s.num, s.den, s.top - by); }
// w = e^timeDecay; what it fades by has long been 0 where it would overflow.
fn rate(log_rate: f32) -> f32 { return exp(min(log_rate, 69.0)); }
fn slot_at(b: u32, slot: u32, d: u32) -> u32 { return ((b * params.slots + slot) * params.width + d) * 3u; }`;

const access = (name: string): string => /* wgsl */ `
fn load_${name}(at: u32) -> State { return State(${name}[at], ${name}[at + 1u], ${name}[at + 2u]); }`;
const write = (name: string): string => /* wgsl */ `
fn store_${name}(at: u32, s: State) { ${name}[at] = s.num; ${name}[at + 1u] = s.den; ${name}[at + 2u] = s.top; }`;

/** An invocation owns a channel and a chunk of tokens. */
const head = /* wgsl */ `
${flatMain("index", "params.batch * params.chunks * params.width")}
  let d = index % params.width;
  let chunk = index / params.width % params.chunks;
  let b = index / (params.width * params.chunks);
  let first = chunk * params.chunk;
  let last = min(first + params.chunk, params.rows);
  let w = rate(channels[d]);`;

/** wkv_t joins the state before the token with the token at e^(u + k_t); the state after it has the token at e^k_t. */
export const wkvForward = (v: WkvVariant & { readonly keep: boolean }): string => /* wgsl */ `
${prelude}
${access("kept")}
${write("kept")}
${head}
  let u = channels[params.width + d];
  var s = nothing();
  ${v.start ? "" : "if (chunk > 0u) "}{ s = load_kept(slot_at(b, first / params.step, d)); }
  for (var t = first; t < last; t++) {
    ${v.keep ? "if (t % params.step == 0u) { store_kept(slot_at(b, t / params.step, d), s); }" : ""}
    let at = (b * params.rows + t) * params.width + d;
    let seen = joined(s, State(v[at], 1.0, u + k[at]));
    out[at] = seen.num / seen.den;
    s = joined(faded(s, w), State(v[at], 1.0, k[at]));
  }
  if (last == params.rows) { store_kept(slot_at(b, params.slots - 1u, d), s); }
}`;

/** Each chunk but the last by itself: its end goes to the next chunk's slot. */
export const wkvEnds = (): string => /* wgsl */ `
${prelude}
${write("kept")}
${head}
  if (last == params.rows) { return; }
  var s = nothing();
  for (var t = first; t < last; t++) {
    let at = (b * params.rows + t) * params.width + d;
    s = joined(faded(s, w), State(v[at], 1.0, k[at]));
  }
  store_kept(slot_at(b, last / params.step, d), s);
}`;

/** In place, from chunk to chunk: what comes in fades by the chunk's length and joins its own. */
export const wkvCarry = (v: WkvVariant & { readonly reverse: boolean }): string => /* wgsl */ `
${prelude}
${access("kept")}
${write("kept")}
${flatMain("index", "params.batch * params.width")}
  let d = index % params.width;
  let b = index / params.width;
  let w = rate(channels[d]);
  var s = ${v.start ? "load_kept(slot_at(b, 0u, d))" : "nothing()"};
  for (var i = 1u; i < params.chunks; i++) {
    let chunk = ${v.reverse ? "params.chunks - i" : "i - 1u"};
    let length = min(params.chunk, params.rows - chunk * params.chunk);
    let at = slot_at(b, ${v.reverse ? "chunk" : "i"} * params.stride, d);
    s = joined(faded(s, f32(length) * w), load_kept(at));
    store_kept(at, s);
  }
}`;

/**
 * adjoint [B, chunks + 1, A, 3]: slot k holds the sum over the tokens t from chunk k on of (g_t, g_t wkv_t) / q_t, faded
 * to the chunk's first token; q_t e^top is the denominator of wkv_t. Each chunk's own part.
 */
export const wkvBackwardEnds = (): string => /* wgsl */ `
${prelude}
${access("kept")}
${write("adjoint")}
${head}
  let u = channels[params.width + d];
  var s = load_kept(slot_at(b, first / params.step, d));
  var sum = nothing();
  for (var t = first; t < last; t++) {
    let at = (b * params.rows + t) * params.width + d;
    let seen = joined(s, State(v[at], 1.0, u + k[at]));
    let c = g[at] / seen.den;
    sum = joined(sum, State(c, c * seen.num / seen.den, -seen.top - f32(t - first) * w));
    s = joined(faded(s, w), State(v[at], 1.0, k[at]));
  }
  store_adjoint(((b * (params.chunks + 1u) + chunk) * params.width + d) * 3u, sum);
}`;

/**
 * A chunk backwards, STEP tokens at a time: forward again from the state that was kept, then back. With (p, r) e^n the
 * sum over later tokens (num and den of the adjoint), q_t the denominator and S_t, Z_t the state before the token,
 *   dv_t = e^(u + k_t) g_t / q_t + e^k_t p,  dk_t = e^(u + k_t) (v_t - wkv_t) g_t / q_t + e^k_t (v_t p - r),
 *   dw = -sum_t e^-w (p S_t - r Z_t).
 * No exponent is above 0. The chunk's incoming slot of adjoint becomes its part of (dtimeDecay, dtimeFirst).
 */
export const wkvBackward = (): string => /* wgsl */ `
${prelude}
${access("kept")}
${access("adjoint")}
${head}
  let u = channels[params.width + d];
  let own = ((b * (params.chunks + 1u) + chunk + 1u) * params.width + d) * 3u;
  var sum = nothing();
  if (chunk + 1u < params.chunks) { sum = load_adjoint(own); }
  var dw = 0.0;
  var du = 0.0;
  for (var n = (last - first + ${STEP - 1}u) / ${STEP}u; n > 0u; n--) {
    let start = first + (n - 1u) * ${STEP}u;
    var before: array<State, ${STEP}>;
    var seen: array<State, ${STEP}>;
    var s = load_kept(slot_at(b, start / ${STEP}u, d));
    for (var i = 0u; i < params.step; i++) {
      let at = (b * params.rows + min(start + i, last - 1u)) * params.width + d;
      before[i] = s;
      seen[i] = joined(s, State(v[at], 1.0, u + k[at]));
      s = joined(faded(s, w), State(v[at], 1.0, k[at]));
    }
    for (var left = min(params.step, last - start); left > 0u; left--) {
      let i = left - 1u;
      let at = (b * params.rows + start + i) * params.width + d;
      let y = seen[i].num / seen[i].den;
      let c = g[at] / seen[i].den;
      let bonus = exp(u + k[at] - seen[i].top) * c;
      let later = exp(k[at] + sum.top);
      dv[at] = fma(later, sum.num, bonus);
      dk[at] = fma(bonus, v[at] - y, later * fma(v[at], sum.num, -sum.den));
      du = fma(bonus, v[at] - y, du);
      dw -= exp(sum.top - w + before[i].top) * (sum.num * before[i].num - sum.den * before[i].den);
      sum = joined(faded(sum, w), State(c, c * y, -seen[i].top));
    }
  }
  adjoint[own] = dw * w;
  adjoint[own + 1u] = du;
}`;

/** dchannels [2, A]: the chunks' parts, summed in order. */
export const wkvBackwardChannels = (): string => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  if (i >= 2u * params.width) { return; }
  var sum = 0.0;
  for (var b = 0u; b < params.batch; b++) {
    for (var k = 1u; k <= params.chunks; k++) {
      sum += adjoint[((b * (params.chunks + 1u) + k) * params.width + i % params.width) * 3u + i / params.width];
    }
  }
  dchannels[i] = sum;
}`;
