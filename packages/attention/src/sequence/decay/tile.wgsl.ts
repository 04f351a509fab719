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
} from "../../engine/wgsl/tile.wgsl.js";
import { head, sizes, strides } from "./rows.wgsl.js";

/*
 * All pairs of tokens of a chunk: the parallel form, where the chunk is the sequence, and the inside of chunks in the
 * chunkwise form. A workgroup owns ROWS tokens of one chunk and head and up to MAX_PIECES pieces of the output's columns; an
 * invocation owns four columns of each piece for all ROWS tokens.
 * Grid [chunks ceil(chunk / ROWS) blocks, heads, batch], blocks the workgroups that share a row.
 *
 * Bindings: xs, ys [batch, groups, tokens, dim], zs [batch, groups, tokens, valueDim], out [batch, heads, tokens, valueDim],
 * each where its strides say; decay [batch, heads, tokens] or [heads]; states [batch, heads, chunks, dim, valueDim], where
 * they enter.
 */

export interface DecayedTileVariant extends TileLanes {
  /** Feature counts of x and y, and those of z and out, are multiples of four. */
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
