import { flatMain } from "@x/kernels";
import type { BindingSpec, ParamType } from "@x/kernels";
import {
  accumulate,
  barrier,
  bind,
  cell,
  declare,
  eachRow,
  element,
  lanesOf,
  loader,
  product,
  ROWS,
  seq,
  shareBase,
  sharedDeclarations,
  storer,
  tileColumns,
  toTile,
  zero,
  type TileLanes,
} from "../engine/tile.wgsl.js";

/** Pieces of 4 LANES columns that one workgroup accumulates; wider outputs are cut. */
export const MAX_PIECES = 4;

export interface DecayedTileVariant extends TileLanes {
  /** Features of x and y, and those of z and out, come by fours. */
  readonly vecX: boolean;
  readonly vecZ: boolean;
  readonly pieces: number;
  /** Sums over u >= t instead of u <= t. */
  readonly reverse: boolean;
  /** A state enters; its columns lie next to each other, or a step apart. */
  readonly state: "none" | "contiguous" | "strided";
  /** Weights enter by their absolute values. */
  readonly absolute: boolean;
}

/** Strides are those of batch, head and token, then how many heads share a head. */
const head = /* wgsl */ `
fn at(stride: vec4u, b: u32, h: u32, t: u32) -> u32 { return b * stride.x + h / stride.w * stride.y + t * stride.z; }`;

const strides: Record<string, ParamType> = {
  decay_stride: "vec4<u32>",
  x_stride: "vec4<u32>",
  z_stride: "vec4<u32>",
};
const sizes: Record<string, ParamType> = {
  heads: "u32",
  tokens: "u32",
  chunk: "u32",
  chunks: "u32",
  dim: "u32",
  value_dim: "u32",
  blocks: "u32",
  state_row: "u32",
  scale: "f32",
};

export const tileParams: Record<string, ParamType> = {
  ...strides,
  y_stride: "vec4<u32>",
  out_stride: "vec4<u32>",
  ...sizes,
  state_column: "u32",
  state_scale: "f32",
};

export const tileBindings = (v: DecayedTileVariant): Record<string, BindingSpec> => ({
  xs: bind("read", element("f32", v.vecX)),
  ys: bind("read", element("f32", v.vecX)),
  zs: bind("read", element("f32", v.vecZ)),
  decay: bind("read", "f32"),
  ...(v.state === "none" ? {} : { states: bind("read", element("f32", v.state === "contiguous" && v.vecZ)) }),
  out: bind("write", element("f32", v.vecZ)),
});

/**
 * out_t = scale sum_u (x_t . y_u) w_tu z_u + state_scale w_t x_t S, over the u <= t of the chunk of t with
 * w_tu = exp(sum of the log decays of u+1..t), S the state before the chunk and w_t the decay from there to t; or in
 * reverse, over u >= t with the log decays of t+1..u, S the gradient of the state after the chunk.
 *
 * One workgroup: ROWS rows of one chunk and head, and up to MAX_PIECES pieces of the columns. Tiles of columns go from
 * the diagonal outwards, and lane r adds up the log decays on row r's way: sums of numbers of one sign, of which no
 * difference is taken, so that nothing overflows or cancels however strong the decay.
 */
export function decayedTile(v: DecayedTileVariant): string {
  const L = lanesOf(v);
  const columns = tileColumns(v);
  const token = (n: string): string => `min(${n}, last - 1u)`;
  const weight = v.absolute ? `abs(${cell(v, "tile")})` : cell(v, "tile");
  const weigh = v.reverse
    ? /* wgsl */ `
      for (var c = 0u; c < 4u * used; c++) {
        let u = c0 + c;
        var w = 0.0;
        if (u >= row && u < last) {
          if (u > row) { total += decay[at(params.decay_stride, b, h, u)]; }
          w = ${weight} * exp(total);
        }
        ${cell(v, "tile")} = w;
      }`
    : /* wgsl */ `
      for (var n = 4u * used; n > 0u; n--) {
        let c = n - 1u;
        let u = c0 + c;
        var w = 0.0;
        if (u <= row && u < c_end) {
          w = ${weight} * exp(total);
          total += decay[at(params.decay_stride, b, h, u)];
        }
        ${cell(v, "tile")} = w;
      }`;
  const body = /* wgsl */ `
    ${seq(4)
      .map((i) => `let y_base${i} = at(params.y_stride, b, h, ${token(`c0 + 4u * lane + ${i}u`)});`)
      .join("\n    ")}
    ${zero("s")}
    ${product(v, "s", "xs", "x_base", "ys", "y_base", "params.dim")}
    ${toTile(v, "tile", "s", " * params.scale")}
    ${barrier(v)}
    if (lane < ${ROWS}u) {
      let r = lane;${weigh}
    }
    ${barrier(v)}
    ${accumulate(v, "o", "tile", "zs", (c) => `column + at(params.z_stride, b, h, ${token(c)})`, v.pieces, "width")}
    ${barrier(v)}`;
  return /* wgsl */ `
${head}
${loader("xs", v.vecX, "params.dim")}
${loader("ys", v.vecX, "params.dim")}
${loader("zs", v.vecZ, "params.value_dim")}
${storer("out", "f32", v.vecZ, "params.value_dim")}
${stateLoader(v)}
var<workgroup> tile: array<vec4f, ${ROWS * L}>;
${sharedDeclarations(v)}
${v.state === "none" ? "" : `var<workgroup> weights: array<f32, ${ROWS}>;`}
var<private> result: array<vec4f, ${ROWS * v.pieces}>;
@compute @workgroup_size(${L})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let h = group.y;
  let column = group.x % params.blocks * ${v.pieces * columns}u;
  let width = params.value_dim - column;
  let tiles = (params.chunk + ${ROWS - 1}u) / ${ROWS}u;
  let chunk = group.x / params.blocks / tiles;
  let first = chunk * params.chunk;
  let last = min(first + params.chunk, params.tokens);
  let r0 = first + group.x / params.blocks % tiles * ${ROWS}u;
  if (r0 >= last) { return; }
  let row = ${token(`r0 + lane % ${ROWS}u`)};
  let x_base = at(params.x_stride, b, h, row);
  ${shareBase(v, "x_base")}
  var total = 0.0;
  ${declare("o", v.pieces)}
  ${
    v.reverse
      ? /* wgsl */ `for (var c0 = r0; c0 < last; c0 += ${columns}u) {
    let used = min(${L}u, (last - c0 + 3u) / 4u);
    ${body}
  }`
      : /* wgsl */ `for (var c_end = min(r0 + ${ROWS}u, last); c_end > first;) {
    let c0 = max(c_end, first + ${columns}u) - ${columns}u;
    let used = (c_end - c0 + 3u) / 4u;
    ${body}
    c_end = c0;
  }`
  }
  ${v.state === "none" ? "" : stateTerm(v)}
  ${eachRow((r) =>
    seq(v.pieces)
      .map((p) => `result[${r * v.pieces + p}] = o${r}_${p};`)
      .join(" "),
  )}
  for (var n = 0u; n < min(${ROWS}u, last - r0) * ${v.pieces}u; n++) {
    let r = n / ${v.pieces}u;
    store_out(at(params.out_stride, b, h, r0 + r), column + lane * 4u + n % ${v.pieces}u * ${columns}u, result[n]);
  }
}`;
}

/** `state4(base, d)`: four neighbouring columns of a row of the state. */
function stateLoader(v: DecayedTileVariant): string {
  if (v.state === "none") return "";
  if (v.state === "contiguous") return loader("states", v.vecZ, "params.value_dim");
  return /* wgsl */ `fn states4(base: u32, d: u32) -> vec4f {
  var x = vec4f();
  for (var i = 0u; i < 4u; i++) { if (d + i < params.value_dim) { x[i] = states[base + (d + i) * params.state_column]; } }
  return x;
}`;
}

/** o_r += weight_r x_r S: pieces of x go through the tile. */
function stateTerm(v: DecayedTileVariant): string {
  const L = lanesOf(v);
  return /* wgsl */ `
  if (lane < ${ROWS}u) { weights[lane] = params.state_scale * exp(total); }
  ${barrier(v)}
  let state_base = ((b * params.heads + h) * params.chunks + chunk) * params.dim * params.value_dim + column * params.state_column;
  for (var c0 = 0u; c0 < params.dim; c0 += ${tileColumns(v)}u) {
    let d = c0 + 4u * lane;
    let used = min(${L}u, (params.dim - c0 + 3u) / 4u);
    for (var r = 0u; r < ${ROWS}u; r++) {
      let own = xs4(at(params.x_stride, b, h, min(r0 + r, last - 1u)), min(d, params.dim - 1u));
      tile[r * ${L}u + lane] = select(vec4f(), weights[r] * own, d < params.dim);
    }
    ${barrier(v)}
    ${accumulate(v, "o", "tile", "states", (c) => `state_base + min(${c}, params.dim - 1u) * params.state_row`, v.pieces, "width")}
    ${barrier(v)}
  }`;
}

export interface DecayedStateVariant extends TileLanes {
  readonly vecZ: boolean;
  readonly pieces: number;
  /** Decay from the chunk's beginning to the token, instead of from the token to the chunk's end. */
  readonly reverse: boolean;
}

export const stateParams: Record<string, ParamType> = { ...strides, ...sizes };

export const stateBindings = (v: DecayedStateVariant): Record<string, BindingSpec> => ({
  xs: bind("read", "f32"),
  zs: bind("read", element("f32", v.vecZ)),
  decay: bind("read", "f32"),
  states: bind("write", element("f32", v.vecZ)),
  gains: bind("write", "f32"),
});

/**
 * What a chunk adds to the state, scale sum_t w_t x_t^T z_t, and its whole decay (gains). One workgroup: ROWS rows of
 * one chunk's matrix and up to MAX_PIECES pieces of its columns, from the token that decays least to that which decays most.
 */
export function decayedStates(v: DecayedStateVariant): string {
  const L = lanesOf(v);
  const columns = tileColumns(v);
  const add = "total += decay[at(params.decay_stride, b, h, t)];";
  const feature = (r: string): string => `xs[x_base + min(r0 + ${r}, params.dim - 1u)]`;
  return /* wgsl */ `
${head}
${loader("zs", v.vecZ, "params.value_dim")}
${storer("states", "f32", v.vecZ, "params.value_dim")}
var<private> result: array<vec4f, ${ROWS * v.pieces}>;
@compute @workgroup_size(${L})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let h = group.y;
  let column = group.x % params.blocks * ${v.pieces * columns}u;
  let width = params.value_dim - column;
  let tiles = (params.dim + ${ROWS - 1}u) / ${ROWS}u;
  let r0 = group.x / params.blocks % tiles * ${ROWS}u;
  let chunk = group.x / params.blocks / tiles;
  let first = chunk * params.chunk;
  let last = min(first + params.chunk, params.tokens);
  var total = 0.0;
  ${declare("o", v.pieces)}
  for (var n = 0u; n < last - first; n++) {
    let t = ${v.reverse ? "first + n" : "last - 1u - n"};
    let x_base = at(params.x_stride, b, h, t);
    ${v.lanes > 0 ? `let own = ${feature(`lane % ${ROWS}u`)};` : ""}
    let z_base = column + at(params.z_stride, b, h, t);
    ${v.reverse ? add : ""}
    let weight = params.scale * exp(total);
    ${v.reverse ? "" : add}
    ${seq(v.pieces)
      .map((p) => `let w${p} = weight * zs4(z_base, min(lane * 4u + ${p * columns}u, width - 1u));`)
      .join("\n    ")}
    ${eachRow(
      (r) =>
        `{ let a = vec4f(${v.lanes > 0 ? `subgroupBroadcast(own, ${r}u)` : feature(`${r}u`)}); ${seq(v.pieces)
          .map((p) => `o${r}_${p} = fma(a, w${p}, o${r}_${p});`)
          .join(" ")} }`,
    )}
  }
  let own_chunk = (b * params.heads + h) * params.chunks + chunk;
  if (lane == 0u && r0 == 0u && column == 0u) { gains[own_chunk] = exp(total); }
  ${eachRow((r) =>
    seq(v.pieces)
      .map((p) => `result[${r * v.pieces + p}] = o${r}_${p};`)
      .join(" "),
  )}
  for (var n = 0u; n < min(${ROWS}u, params.dim - r0) * ${v.pieces}u; n++) {
    let r = r0 + n / ${v.pieces}u;
    store_states((own_chunk * params.dim + r) * params.state_row, column + lane * 4u + n % ${v.pieces}u * ${columns}u, result[n]);
  }
}`;
}

export interface ScanVariant {
  readonly state: boolean;
  readonly reverse: boolean;
}

export const scanBindings = (v: ScanVariant): Record<string, BindingSpec> => ({
  ...(v.state ? { state: bind("read", "f32") } : {}),
  gains: bind("read", "f32"),
  states: bind("read_write", "f32"),
  last: bind("write", "f32"),
});
export const scanParams: Record<string, ParamType> = { size: "u32", chunks: "u32", count: "u32" };

/** S_{c+1} = gain_c S_c + U_c, one thread for an element: states holds U and then S_c, `last` the state at the end. */
export const decayedScan = (v: ScanVariant): string => /* wgsl */ `
${flatMain("i", "params.count")}
  var s = ${v.state ? "state[i]" : "0.0"};
  for (var n = 0u; n < params.chunks; n++) {
    let c = i / params.size * params.chunks + ${v.reverse ? "params.chunks - 1u - n" : "n"};
    let place = c * params.size + i % params.size;
    let own = states[place];
    states[place] = s;
    s = fma(gains[c], s, own);
  }
  last[i] = s;
}`;

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

/** S_t = exp(decay_t) S_{t-1} + scale k_t^T v_t, out_t = q_t S_t: one thread for a column of S, token after token. */
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
