import type { BindingSpec, ParamType } from "@x/kernels";
import { accumulateSeen, guards } from "./accumulate.wgsl.js";
import { float, foldedBindings } from "../fold.js";
import { LOW, scoreBindings, scoreFunctions } from "./scores.wgsl.js";
import {
  cell,
  barrier,
  bases,
  bind,
  declare,
  eachRow,
  element,
  flashParams,
  headAt,
  keyAt,
  lanesOf,
  loader,
  product,
  queryAt,
  ROWS,
  seq,
  share,
  shareBase,
  sharedDeclarations,
  sharesRows,
  spread,
  storer,
  tileRows,
  toTile,
  zero,
  type FlashVariant,
} from "./tile.wgsl.js";
import { scorePass, tilesOfKeys } from "./visits.wgsl.js";

/*
 * Attention in tiles, forward. A workgroup of `lanesOf` invocations owns ROWS rows (queries times the heads
 * of a group) of one key head, and all their keys or one part of them. An invocation owns four columns of a
 * tile of scores, then four neighbouring features of each piece of the output; lane r holds the maximum and
 * the sum of row r. Grid [tiles of rows, key heads, batch * parts].
 *
 * Bindings: q [batch, heads, queries, dim], k [batch, kvHeads, keys, dim], v [batch, kvHeads, keys, valueDim]
 * and out [batch, heads, queries, valueDim], f32 or f16 by their strides; sinks [heads] f32; lse
 * [batch, heads, queries] f32; with parts, out and lse have the part as a first axis and are f32; and those
 * of `scores.wgsl.ts`.
 */

export function forwardBindings(v: FlashVariant): Record<string, BindingSpec> {
  return {
    q: bind("read", element(v.q, v.vecQK)),
    k: bind("read", element(v.k, v.vecQK)),
    v: bind("read", element(v.v, v.vecV)),
    ...foldedBindings(v, {
      ...scoreBindings(v),
      ...(v.sinks ? { sinks: bind("read", "f32") } : {}),
    }),
    out: bind("write", element(v.out, v.vecV)),
    lse: bind("write", "f32"),
  };
}

export function forwardParams(v: FlashVariant): Record<string, ParamType> {
  return { ...flashParams(v), parts: "u32", rows: "u32" };
}

/**
 * Scores of the tile become weights exp(s - top) of their rows, LOW where a pair is not seen; `top` and `total` of lane r follow, and `alpha`, by which
 * row r's earlier sums shrink (Milakov and Gimelshein 2018).
 */
function softmaxPass(v: FlashVariant): string {
  if (sharesRows(v))
    return /* wgsl */ `
    for (var r = 0u; r < ${ROWS}u; r++) {
      let s = tile[r * ${lanesOf(v)}u + lane];
      let high = max(subgroupShuffle(top, r), subgroupMax(max(max(s.x, s.y), max(s.z, s.w))));
      let none = s <= vec4f(${LOW});
      let p = select(exp(s - high), vec4f(), none);
      let sum = subgroupAdd((p.x + p.y) + (p.z + p.w));
      if (lane == r) {
        alpha = exp(top - high);
        total = total * alpha + sum;
        top = high;
      }
      tile[r * ${lanesOf(v)}u + lane] = select(p, vec4f(${LOW}), none);
    }`;
  return /* wgsl */ `
    if (lane < ${ROWS}u) {
      let r = lane;
      var high = top;
      for (var c = 0u; c < 4u * used; c++) { high = max(high, ${cell(v, "tile")}); }
      alpha = exp(top - high);
      total *= alpha;
      for (var c = 0u; c < 4u * used; c++) {
        let s = ${cell(v, "tile")};
        let none = s <= ${LOW};
        let p = exp(s - high);
        total += select(p, 0.0, none);
        ${cell(v, "tile")} = select(p, ${LOW}, none);
      }
      top = high;
    }`;
}

/**
 * One workgroup: ROWS rows (queries times the heads of a group) of one key head, and all keys they see or one part of
 * them; parts follow each other in out and lse. Lane r holds the running maximum and sum of row r. The sink belongs
 * to the first part. An empty row has infinite lse: its weights exp(s - lse) are then 0 in the backward too.
 */
export function flashForward(v: FlashVariant): string {
  const L = lanesOf(v);
  const column = (c: string): string => keyAt("column", `min(${c}, column_end - 1u)`);
  return /* wgsl */ `
${bases}
${scoreFunctions(v)}
${guards}
${loader("q", v.vecQK, "params.head_dim")}
${loader("k", v.vecQK, "params.head_dim")}
${loader("v", v.vecV, "params.value_dim")}
${storer("out", v.out, v.vecV, "params.value_dim")}
var<workgroup> tile: array<vec4f, ${ROWS * L}>;
${sharedDeclarations(v, "alpha", "inverse")}
var<private> result: array<vec4f, ${ROWS * v.piecesV}>;
@compute @workgroup_size(${L})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.z / params.parts;
  let part = group.z % params.parts;
  let kv_head = group.y;
  ${tileRows(v, "queries")}
  let own = min(r0 + lane % ${ROWS}u, row_end - 1u);
  let row = ${queryAt("row", "own")};
  let h = ${headAt("own")};
  let x_base = q_base(b, h, row);
  ${shareBase(v, "x_base")}
  var top = ${LOW};
  var total = 0.0;
  ${declare("o", v.piecesV)}
  ${tilesOfKeys(
    v,
    /* wgsl */ `
    ${seq(4)
      .map((i) => `let y_base${i} = k_base(b, kv_head, ${column(`c0 + 4u * lane + ${i}u`)});`)
      .join("\n    ")}
    ${zero("s")}
    ${product(v, "s", "q", "x_base", "k", "y_base", "params.head_dim")}
    ${toTile(v, "tile", "s", " * params.scale")}
    ${barrier(v)}
    var alpha = 1.0;
    ${scorePass(v)}
    ${softmaxPass(v)}
    ${share(v, "alpha")}
    ${barrier(v)}
    ${eachRow(
      (r) =>
        `{ let a = ${spread(v, "alpha", r)}; ${seq(v.piecesV)
          .map((p) => `o${r}_${p} *= a;`)
          .join(" ")} }`,
    )}
    ${accumulateSeen(v, {
      acc: "o",
      tile: "tile",
      y: "v",
      yBase: (col) => `v_base(b, kv_head, ${column(col)})`,
      limit: "params.value_dim",
      pieces: v.piecesV,
      spill: 0,
    })}
    ${barrier(v)}`,
    true,
  )}
  ${
    v.sinks
      ? `var shrink = 1.0;
  if (part == 0u) {
    let sink = ${float(v, "sinks", "h")};
    let high = max(top, sink);
    shrink = exp(top - high);
    total = total * shrink + exp(sink - high);
    top = high;
  }
  let inverse = select(shrink / total, 0.0, total == 0.0);`
      : "let inverse = select(1.0 / total, 0.0, total == 0.0);"
  }
  ${share(v, "inverse")}
  ${v.lanes > 0 ? "" : "workgroupBarrier();"}
  if (lane < ${ROWS}u && r0 + lane < row_end) {
    lse[part * params.rows + (b * params.heads + h) * params.queries + row] = select(top + log(total), 3.0e38, total == 0.0);
  }
  ${eachRow(
    (r) =>
      `{ let a = ${spread(v, "inverse", r)}; ${seq(v.piecesV)
        .map((p) => `result[${r * v.piecesV + p}] = (o${r}_${p} + result[${r * v.piecesV + p}]) * a;`)
        .join(" ")} }`,
  )}
  for (var n = 0u; n < min(${ROWS}u, row_end - r0) * ${v.piecesV}u; n++) {
    let r = n / ${v.piecesV}u;
    store_out(part * params.rows * params.value_dim + o_base(b, ${headAt("r0 + r")}, ${queryAt("row", "r0 + r")}), lane * 4u + n % ${v.piecesV}u * ${4 * L}u, result[n]);
  }
}`;
}
