import { flatMain } from "@x/kernels";
import type { ParamType } from "@x/kernels";
import { riseWgsl, sigmoidWgsl, softplusWgsl } from "../state/functions.wgsl.js";

/*
 * Griffin's recurrence. Where there are more chunks than one, the ends of the chunks are joined by `rgLruCarry`, and each chunk
 * starts from what comes into it.
 *
 * An invocation owns a channel and a chunk of tokens, of the carry a channel of one sequence. Grid: batch chunks width
 * invocations in workgroups of 64.
 *
 * Bindings: x, h, out, dout, lambda [batch, rows, width]; gates and dgates [blocks, batch rows, 2, block]; channels: rows of
 * width values; segment_pos [batch, rows]; borders [batch, chunks, width] of vec2; dstate [batch, width]; parts
 * [batch chunks, 3, width].
 */

/** Tokens whose parts of the parameters' gradients are summed by one invocation. */
export const ROWS = 64;

export interface RgLruVariant {
  /** `segment_pos` is there: where it is 0 a document begins. */
  readonly segments: boolean;
  /** A state comes in. */
  readonly start: boolean;
}

export const rgLruParams: Record<string, ParamType> = {
  batch: "u32",
  rows: "u32",
  width: "u32",
  /** Channels of a block of the gates' weights. */
  block: "u32",
  chunk: "u32",
  chunks: "u32",
  c: "f32",
};

/**
 * What all share. gates [blocks, B T, 2, block] holds the two gates before bias and sigmoid; the rows of channels are the
 * input gate's bias, the recurrence gate's bias, aParam, and the incoming state of each sequence if there is one.
 */
const prelude = (v: RgLruVariant): string => /* wgsl */ `
${sigmoidWgsl}
${softplusWgsl}
${riseWgsl}
struct Step {
  input_gate: f32,
  rec_gate: f32,
  /** a_t, and the factor (1 - a_t^2)^(1/2) of the gated input. */
  keep: f32,
  gain: f32,
  /** A document begins: nothing of the state before is read. */
  begins: bool,
}
struct Channel { input_bias: f32, rec_bias: f32, rate: f32 }
fn channel(d: u32) -> Channel {
  return Channel(channels[d], channels[params.width + d], params.c * softplus(channels[2u * params.width + d]));
}
fn gate_at(row: u32, d: u32) -> u32 {
  return (d / params.block * params.batch * params.rows + row) * 2u * params.block + d % params.block;
}
fn step_at(row: u32, d: u32, own: Channel) -> Step {
  let at = gate_at(row, d);
  let r = sigmoid(gates[at + params.block] + own.rec_bias);
  let decay = own.rate * r;
  var s = Step(sigmoid(gates[at] + own.input_bias), r, exp(-decay), sqrt(rise(2.0 * decay)), false);
  ${v.segments ? "if (segment_pos[row] == 0) { s.keep = 0.0; s.gain = 1.0; s.begins = true; }" : ""}
  return s;
}
// What is kept of a value; a product with 0 would let through what is not finite.
fn kept(s: Step, value: f32) -> f32 { if (s.begins) { return 0.0; } return s.keep * value; }`;

const head = (chunks = "params.chunks"): string => /* wgsl */ `
${flatMain("index", `params.batch * ${chunks} * params.width`)}
  let d = index % params.width;
  let chunk = index / params.width % ${chunks};
  let b = index / (params.width * ${chunks});
  let first = chunk * params.chunk;
  let last = min(first + params.chunk, params.rows);
  let own = channel(d);`;

/** Each chunk by itself: borders [B, chunks, W] of (product of a, what it hands on from nothing). */
export const rgLruEnds = (v: RgLruVariant): string => /* wgsl */ `
${prelude(v)}
${head()}
  var h = 0.0;
  var product = 1.0;
  for (var t = first; t < last; t++) {
    let row = b * params.rows + t;
    let s = step_at(row, d, own);
    h = kept(s, h) + s.gain * s.input_gate * x[row * params.width + d];
    product = kept(s, product);
  }
  borders[index] = vec2f(product, h);
}`;

/** The same of the adjoint, from the last token to the first: a chunk hands on to the one before it. */
export const rgLruBackwardEnds = (v: RgLruVariant): string => /* wgsl */ `
${prelude(v)}
${head()}
  var m = 0.0;
  var product = 1.0;
  for (var t = last; t > first; t--) {
    let row = b * params.rows + t - 1u;
    let s = step_at(row, d, own);
    m = kept(s, dout[row * params.width + d] + m);
    product = kept(s, product);
  }
  borders[index] = vec2f(product, m);
}`;

/** In place: the second of borders[b, chunk, d] becomes what comes into the chunk. An invocation owns a channel. */
export const rgLruCarry = (v: { readonly reverse: boolean; readonly start: boolean }): string => /* wgsl */ `
${flatMain("index", "params.batch * params.width")}
  var value = ${v.start ? "channels[3u * params.width + index]" : "0.0"};
  for (var k = 0u; k < params.chunks; k++) {
    let chunk = ${v.reverse ? "params.chunks - 1u - k" : "k"};
    let at = (index / params.width * params.chunks + chunk) * params.width + index % params.width;
    let own = borders[at];
    borders[at].y = value;
    value = select(fma(own.x, value, own.y), own.y, own.x == 0.0);
  }
}`;

/** h_t = a_t h_{t-1} + (1 - a_t^2)^(1/2) i_t x_t. */
export const rgLruForward = (v: RgLruVariant & { readonly split: boolean }): string => /* wgsl */ `
${prelude(v)}
${head()}
  var h = ${v.split ? "borders[index].y" : v.start ? "channels[(3u + b) * params.width + d]" : "0.0"};
  for (var t = first; t < last; t++) {
    let row = b * params.rows + t;
    let s = step_at(row, d, own);
    h = kept(s, h) + s.gain * s.input_gate * x[row * params.width + d];
    out[row * params.width + d] = h;
  }
}`;

/** lambda_t = dout_t + a_{t+1} lambda_{t+1}; dstate = a_0 lambda_0. */
export const rgLruBackwardScan = (v: RgLruVariant & { readonly split: boolean }): string => /* wgsl */ `
${prelude(v)}
${head()}
  var m = ${v.split ? "borders[index].y" : "0.0"};
  for (var t = last; t > first; t--) {
    let row = b * params.rows + t - 1u;
    let l = dout[row * params.width + d] + m;
    lambda[row * params.width + d] = l;
    m = kept(step_at(row, d, own), l);
  }
  ${v.start ? "if (chunk == 0u) { dstate[b * params.width + d] = m; }" : ""}
}`;

/**
 * lambda becomes dx (the part that does not pass through the gates); dgates; and each chunk's part of dchannels:
 * parts [B chunks, 3, W]. The slope of the root is held at 1000, where a_t comes near 1 (as the reference does).
 */
export const rgLruBackwardGates = (v: RgLruVariant): string => /* wgsl */ `
${prelude(v)}
${head()}
  var sums = vec3f();
  for (var t = first; t < last; t++) {
    let row = b * params.rows + t;
    let at = row * params.width + d;
    let gate = gate_at(row, d);
    let s = step_at(row, d, own);
    let l = lambda[at];
    var before = ${v.start ? "channels[(3u + b) * params.width + d]" : "0.0"};
    if (t > 0u) { before = h[at - params.width]; }
    // Of the logarithm of a, through a and through the gain. 1 - sigmoid(y) is sigmoid(-y), which keeps its digits.
    let dlog = kept(s, l * (before - 2.0 * s.keep * min(0.5 / s.gain, 1000.0) * s.input_gate * x[at]));
    let di = l * s.gain * x[at] * s.input_gate * sigmoid(-gates[gate] - own.input_bias);
    let dr = -dlog * own.rate * s.rec_gate * sigmoid(-gates[gate + params.block] - own.rec_bias);
    dgates[gate] = di;
    dgates[gate + params.block] = dr;
    lambda[at] = l * s.gain * s.input_gate;
    sums += vec3f(di, dr, -dlog * params.c * s.rec_gate);
  }
  let to = (b * params.chunks + chunk) * 3u * params.width + d;
  parts[to] = sums.x;
  parts[to + params.width] = sums.y;
  parts[to + 2u * params.width] = sums.z * sigmoid(channels[2u * params.width + d]);
}`;
