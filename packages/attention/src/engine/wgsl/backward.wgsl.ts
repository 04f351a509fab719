import { flatMain } from "@x/kernels";
import type { BindingSpec, ParamType } from "@x/kernels";
import { accumulateSeen, guards } from "./accumulate.wgsl.js";
import { float, foldedBindings, int } from "../fold.js";
import { LOW, scoreBindings, scoreFunctions } from "./scores.wgsl.js";
import {
  barrier,
  bases,
  bind,
  declare,
  eachCell,
  eachRow,
  element,
  headAt,
  keyAt,
  lanesOf,
  loader,
  ownCell,
  product,
  queryAt,
  ROWS,
  seq,
  shareBase,
  sharedDeclarations,
  storer,
  tileRows,
  toTile,
  zero,
  type FlashVariant,
} from "./tile.wgsl.js";
import { seenIn, tilesOfKeys, tilesOfQueries } from "./visits.wgsl.js";

/*
 * Attention in tiles, backward, in three kernels.
 *
 * - `deltaText`: an invocation owns one row; batch * heads * queries invocations in workgroups of 64.
 * - `flashBackwardQuery`: a workgroup of `lanesOf` invocations owns ROWS rows of queries, as in the forward.
 *   Grid [tiles of rows, key heads, batch].
 * - `flashBackwardKey`: a workgroup owns ROWS keys of one key head, and visits the queries of all heads of
 *   the group. Grid [tiles of keys, key heads, batch].
 *
 * An invocation owns four columns of a tile, then four neighbouring features of each piece of the gradients.
 *
 * Bindings: q, k, v and out as in `forward.wgsl.ts`, dq, dk, dv and dout like them, f32 or f16; lse, dlse,
 * delta [batch, heads, queries] f32; sums and sums_grad [batch, heads, queries, rows] f32 with sums_index
 * i32, the row of each distance; and those of `scores.wgsl.ts`.
 */

export const backwardInputs = (v: FlashVariant): Record<string, BindingSpec> => ({
  q: bind("read", element(v.q, v.vecQK)),
  k: bind("read", element(v.k, v.vecQK)),
  v: bind("read", element(v.v, v.vecV)),
  dout: bind("read", element(v.out, v.vecV)),
  lse: bind("read", "f32"),
  delta: bind("read", "f32"),
  ...scoreBindings(v),
  ...(v.weightSums ? { sums_grad: bind("read", "f32"), sums_index: bind("read", "i32") } : {}),
});

/** Loads of q, k, v and dout; and dp of one weight, with the cotangent of the weights' sums by distance. */
export const backwardLoaders = (v: FlashVariant): string => `
${loader("q", v.vecQK, "params.head_dim")}
${loader("k", v.vecQK, "params.head_dim")}
${loader("v", v.vecV, "params.value_dim")}
${loader("dout", v.vecV, "params.value_dim")}
fn weight_gradient(dp: f32, b: u32, h: u32, row: u32, at: vec2i) -> f32 {
  ${v.weightSums ? `return dp + ${float(v, "sums_grad", `((b * params.heads + h) * params.queries + row) * params.sums_rows + u32(${int(v, "sums_index", "at.x - at.y - params.sums_min")})`)};` : "return dp;"}
}`;

export function queryBackwardBindings(v: FlashVariant): Record<string, BindingSpec> {
  return { ...foldedBindings(v, backwardInputs(v)), dq: bind("write", element(v.q, v.vecQK)) };
}

/** Raw scores of the tile, scaled, and the products dp of the output's cotangent with the values, in their tiles. */
const bothTiles = (v: FlashVariant, x: string, y: string, g: string, z: string): string => `${zero("s")}
    ${shareBase(v, "x_base")}
    ${product(v, "s", x, "x_base", y, "y_base", "params.head_dim")}
    ${toTile(v, "tile", "s", " * params.scale")}
    ${zero("dp")}
    ${v.lanes > 0 ? "" : "workgroupBarrier();"}
    ${shareBase(v, "g_base")}
    ${product(v, "dp", g, "g_base", z, "z_base", "params.value_dim")}
    ${toTile(v, "tile_dp", "dp")}
    ${barrier(v)}`;

/** ds = p (dp - delta) rate; dq = scale ds K. */
export function flashBackwardQuery(v: FlashVariant): string {
  const L = lanesOf(v);
  const column = (c: string): string => keyAt("column", `min(${c}, column_end - 1u)`);
  return /* wgsl */ `
${bases}
${scoreFunctions(v)}
${backwardLoaders(v)}
${guards}
${storer("dq", v.q, v.vecQK, "params.head_dim")}
var<workgroup> tile: array<vec4f, ${ROWS * L}>;
var<workgroup> tile_dp: array<vec4f, ${ROWS * L}>;
${sharedDeclarations(v)}
var<private> result: array<vec4f, ${ROWS * v.piecesQK}>;
@compute @workgroup_size(${L})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let kv_head = group.y;
  ${tileRows(v, "queries")}
  let own = min(r0 + lane % ${ROWS}u, row_end - 1u);
  let row = ${queryAt("row", "own")};
  let h = ${headAt("own")};
  let x_base = q_base(b, h, row);
  let g_base = o_base(b, h, row);
  let own_lse = ${float(v, "lse", "(b * params.heads + h) * params.queries + row")};
  let own_delta = ${float(v, "delta", "(b * params.heads + h) * params.queries + row")};
  ${declare("dq_", v.piecesQK)}
  ${tilesOfKeys(
    v,
    /* wgsl */ `
    ${seq(4)
      .map(
        (i) =>
          `let y_base${i} = k_base(b, kv_head, ${column(`c0 + 4u * lane + ${i}u`)}); let z_base${i} = v_base(b, kv_head, ${column(`c0 + 4u * lane + ${i}u`)});`,
      )
      .join("\n    ")}
    ${bothTiles(v, "q", "k", "dout", "v")}
    ${eachCell(
      v,
      ["row", "h", "own_lse", "own_delta"],
      /* wgsl */ `let col = ${column("c0 + c")};
        let at = place(b, row, col);
        var ds = ${LOW};
        if (c0 + c < column_end && ${seenIn(v)}) {
          let y = score(${ownCell(v, "tile")}, b, h, row, col, at);
          let d = exp(y.x - own_lse) * (weight_gradient(${ownCell(v, "tile_dp")}, b, h, row, at) - own_delta) * y.y;
          ds = select(d, ${LOW}, y.x <= ${LOW});
        }
        ${ownCell(v, "tile")} = ds;`,
    )}
    ${barrier(v)}
    ${accumulateSeen(v, {
      acc: "dq_",
      tile: "tile",
      y: "k",
      yBase: (col) => `k_base(b, kv_head, ${column(col)})`,
      limit: "params.head_dim",
      pieces: v.piecesQK,
      spill: 0,
    })}
    ${barrier(v)}`,
  )}
  ${eachRow((r) =>
    seq(v.piecesQK)
      .map(
        (p) =>
          `result[${r * v.piecesQK + p}] = (dq_${r}_${p} + result[${r * v.piecesQK + p}]) * params.scale;`,
      )
      .join(" "),
  )}
  for (var n = 0u; n < min(${ROWS}u, row_end - r0) * ${v.piecesQK}u; n++) {
    let r = n / ${v.piecesQK}u;
    store_dq(q_base(b, ${headAt("r0 + r")}, ${queryAt("row", "r0 + r")}), lane * 4u + n % ${v.piecesQK}u * ${4 * L}u, result[n]);
  }
}`;
}

export function keyBackwardBindings(v: FlashVariant): Record<string, BindingSpec> {
  return {
    ...foldedBindings(v, backwardInputs(v)),
    dk: bind("write", element(v.k, v.vecQK)),
    dv: bind("write", element(v.v, v.vecV)),
  };
}

/** The tile's rows are keys, its columns the queries of all heads of the group: dv = p^T dout, dk = scale ds^T q. */
export function flashBackwardKey(v: FlashVariant): string {
  const L = lanesOf(v);
  const column = (n: string): string => `min(${n}, column_end - 1u)`;
  const place = (n: string): string => `${headAt(column(n))}, ${queryAt("column", column(n))}`;
  const keys = ROWS * v.piecesQK;
  return /* wgsl */ `
${bases}
${scoreFunctions(v)}
${backwardLoaders(v)}
${guards}
${storer("dk", v.k, v.vecQK, "params.head_dim")}
${storer("dv", v.v, v.vecV, "params.value_dim")}
var<workgroup> tile: array<vec4f, ${ROWS * L}>;
var<workgroup> tile_dp: array<vec4f, ${ROWS * L}>;
${sharedDeclarations(v)}
// Of the keys' gradients, then of the values'.
var<private> result: array<vec4f, ${keys + ROWS * v.piecesV}>;
@compute @workgroup_size(${L})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z;
  let kv_head = group.y;
  ${tileRows(v, "keys")}
  let col = ${keyAt("row", `min(r0 + lane % ${ROWS}u, row_end - 1u)`)};
  let x_base = k_base(b, kv_head, col);
  let g_base = v_base(b, kv_head, col);
  ${declare("dk_", v.piecesQK)}
  ${declare("dv_", v.piecesV)}
  ${tilesOfQueries(
    v,
    /* wgsl */ `
    ${seq(4)
      .map(
        (i) => `let y_base${i} = q_base(b, ${place(`c0 + 4u * lane + ${i}u`)});
    let z_base${i} = o_base(b, ${place(`c0 + 4u * lane + ${i}u`)});`,
      )
      .join("\n    ")}
    ${bothTiles(v, "k", "q", "v", "dout")}
    ${eachCell(
      v,
      ["col"],
      /* wgsl */ `let n = ${column("c0 + c")};
        let row = ${queryAt("column", "n")};
        let h = ${headAt("n")};
        let at = place(b, row, col);
        var p = ${LOW};
        var ds = ${LOW};
        if (c0 + c < column_end && ${seenIn(v)}) {
          let y = score(${ownCell(v, "tile")}, b, h, row, col, at);
          let at_row = (b * params.heads + h) * params.queries + row;
          if (!(y.x <= ${LOW})) {
            p = exp(y.x - ${float(v, "lse", "at_row")});
            ds = p * (weight_gradient(${ownCell(v, "tile_dp")}, b, h, row, at) - ${float(v, "delta", "at_row")}) * y.y;
          }
        }
        ${ownCell(v, "tile")} = p;
        ${ownCell(v, "tile_dp")} = ds;`,
    )}
    ${barrier(v)}
    ${accumulateSeen(v, {
      acc: "dv_",
      tile: "tile",
      y: "dout",
      yBase: (n) => `o_base(b, ${place(n)})`,
      limit: "params.value_dim",
      pieces: v.piecesV,
      spill: keys,
    })}
    ${accumulateSeen(v, {
      acc: "dk_",
      tile: "tile_dp",
      y: "q",
      yBase: (n) => `q_base(b, ${place(n)})`,
      limit: "params.head_dim",
      pieces: v.piecesQK,
      spill: 0,
    })}
    ${barrier(v)}`,
  )}
  ${eachRow((r) =>
    seq(v.piecesQK)
      .map(
        (p) =>
          `result[${r * v.piecesQK + p}] = (dk_${r}_${p} + result[${r * v.piecesQK + p}]) * params.scale;`,
      )
      .join(" "),
  )}
  for (var n = 0u; n < min(${ROWS}u, row_end - r0) * ${v.piecesQK}u; n++) {
    let r = n / ${v.piecesQK}u;
    store_dk(k_base(b, kv_head, ${keyAt("row", "r0 + r")}), lane * 4u + n % ${v.piecesQK}u * ${4 * L}u, result[n]);
  }
  ${eachRow((r) =>
    seq(v.piecesV)
      .map((p) => `result[${keys + r * v.piecesV + p}] += dv_${r}_${p};`)
      .join(" "),
  )}
  for (var n = 0u; n < min(${ROWS}u, row_end - r0) * ${v.piecesV}u; n++) {
    let r = n / ${v.piecesV}u;
    store_dv(v_base(b, kv_head, ${keyAt("row", "r0 + r")}), lane * 4u + n % ${v.piecesV}u * ${4 * L}u, result[${keys}u + n]);
  }
}`;
}

/** delta_i = sum_d dout_i out_i + sum_n dW_in W_in - dlse_i, one thread per row. */
export interface DeltaVariant {
  readonly out: string;
  readonly sums: boolean;
  readonly lse: boolean;
}

export function deltaBindings(v: DeltaVariant): Record<string, BindingSpec> {
  return {
    out: bind("read", v.out),
    dout: bind("read", v.out),
    ...(v.sums ? { sums: bind("read", "f32"), sums_grad: bind("read", "f32") } : {}),
    ...(v.lse ? { dlse: bind("read", "f32") } : {}),
    delta: bind("write", "f32"),
  };
}

export const deltaParams: Record<string, ParamType> = {
  o_stride: "vec4<u32>",
  heads: "u32",
  queries: "u32",
  rows: "u32",
  value_dim: "u32",
  sums_rows: "u32",
};

export function deltaText(v: DeltaVariant): string {
  return /* wgsl */ `
${flatMain("i", "params.rows")}
  let base = dot(vec3u(i / params.queries / params.heads, i / params.queries % params.heads, i % params.queries), params.o_stride.xyz);
  var total = 0.0;
  for (var d = 0u; d < params.value_dim; d++) { total += f32(out[base + d]) * f32(dout[base + d]); }
  ${v.sums ? "for (var n = 0u; n < params.sums_rows; n++) { total += sums[i * params.sums_rows + n] * sums_grad[i * params.sums_rows + n]; }" : ""}
  ${v.lse ? "total -= dlse[i];" : ""}
  delta[i] = total;
}`;
}
