import { flatMain, type BindingSpec, type ParamType } from "@x/kernels";
import {
  bind,
  declare,
  eachRow,
  element,
  lanesOf,
  loader,
  ROWS,
  seq,
  storer,
  tileColumns,
  type TileLanes,
} from "../../engine/wgsl/tile.wgsl.js";
import { head, sizes, strides } from "./rows.wgsl.js";

/*
 * The states between the chunks of the chunkwise form, in two kernels: what each chunk adds, then a scan over chunks.
 *
 * A workgroup of `decayedStates` owns ROWS rows of one chunk's matrix and up to MAX_PIECES pieces of its columns; an
 * invocation owns four columns of each piece. Grid [chunks ceil(dim / ROWS) blocks, heads, batch]. An invocation of
 * `decayedScan` owns one element of the state for all chunks: count = batch heads dim valueDim, in workgroups of 64.
 *
 * Bindings: xs [batch, groups, tokens, dim], zs [batch, groups, tokens, valueDim], where their strides say; decay [batch,
 * heads, tokens] or [heads]; states [batch, heads, chunks, dim, valueDim]; gains [batch, heads, chunks]; state and last
 * [batch, heads, dim, valueDim].
 */

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

/** S_{c+1} = gain_c S_c + U_c, one invocation for an element: states holds U and then S_c, `last` the state at the end. */
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
