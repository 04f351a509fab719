import { int } from "../fold.js";
import { LOW } from "./scores.wgsl.js";
import {
  eachCell,
  keyAt,
  lanesOf,
  ownCell,
  placesFrom,
  ROWS,
  tileColumns,
  type FlashVariant,
} from "./tile.wgsl.js";

/*
 * Which tiles a workgroup visits, and the loops over them. A fragment: the kernel that includes it owns ROWS
 * rows, of queries or of keys, and the loops give it the columns from `c0`.
 *
 * Bindings: ints i32, only where a pattern has lists: for each key head and tile of rows the begin and end of
 * its list, and the list's pairs of (first column and whether the tile is whole, end column).
 */

/** Terms or masks that look at every pair. */
const scored = (v: FlashVariant): boolean =>
  v.terms.length > 0 || v.mask || v.keyMask || v.docs || v.positions || (v.pattern !== undefined && !v.lists);

/** Whether a pair is seen: not asked where `whole` says that the mask leaves the tile whole. */
export const seenIn = (v: FlashVariant): string =>
  scored(v) ? "seen(b, h, row, col, at)" : "(whole || seen(b, h, row, col, at))";

/** Scores of a tile; pairs that are not seen become LOW. */
export function scorePass(v: FlashVariant): string {
  const at = ownCell(v, "tile");
  return /* wgsl */ `
    ${scored(v) ? "{" : "if (!whole) {"}
      ${eachCell(
        v,
        ["row", "h"],
        /* wgsl */ `let col = ${keyAt("column", "min(c0 + c, column_end - 1u)")};
        let at = place(b, row, col);
        var y = ${LOW};
        if (c0 + c < column_end && seen(b, h, row, col, at)) { y = score(${at}, b, h, row, col, at).x; }
        ${at} = y;`,
      )}
    }`;
}

/** Tiles of a list: `body` for each, with its places from `c0`, `whole`, `used` (columns in use, by fours). */
function listed(v: FlashVariant, rows: "query" | "key", columns: "queries" | "keys", body: string): string {
  const width = `${tileColumns(v)}u`;
  return /* wgsl */ `
  let visit_at = params.${rows}_visits + i32(kv_head) * params.${rows}_visits_stride + i32(group.x);
  let visit_end = ints[visit_at + 1];
  for (var visit = ints[visit_at]; visit < visit_end; visit += 2) {
    let run = ints[visit];
    let whole = (run & 1) != 0;
    let begin = u32(run >> 1u);
    let column_first = begin / column_span;
    let column_end = min(${placesFrom(columns, "column_first")}, u32(ints[visit + 1]) - column_first * column_span);
    for (var c0 = begin % column_span; c0 < column_end; c0 += ${width}) {
    let used = min(${lanesOf(v)}u, (column_end - c0 + 3u) / 4u);
    ${body}
    }
  }`;
}

/**
 * Tiles that the rows from r0 on may see, where positions are row numbers; a tile may be `whole`. With `split` those
 * are dealt out to `params.parts` parts, and the loop is that of `part`.
 */
export function tilesOfKeys(v: FlashVariant, body: string, split = false): string {
  if (v.lists) return listed(v, "query", "keys", body);
  const columns = tileColumns(v);
  const range = [
    "let column_first = 0u; let column_end = params.keys;",
    "var first_key = 0; var end_key = i32(params.keys);",
  ];
  const whole = [`c0 + ${columns}u <= params.keys`];
  const last = `i32(c0) + ${columns - 1}`;
  if (!v.positions) {
    range.push(
      "let first_position = i32(r0 / params.group) + params.offset;",
      `let last_position = i32(min(r0 + ${ROWS - 1}u, row_end - 1u) / params.group) + params.offset;`,
    );
    if (v.causal) {
      range.push("end_key = min(end_key, last_position + 1);");
      whole.push(`${last} <= first_position`);
    }
    if (v.window) {
      range.push(
        "first_key = max(first_key, first_position - params.window_left);",
        "end_key = min(end_key, last_position + params.window_right + 1);",
      );
      whole.push(
        "last_position - i32(c0) <= params.window_left",
        `${last} - first_position <= params.window_right`,
      );
    }
  } else if (v.causal && v.inOrder) {
    range.push(
      "var last_position = -1;",
      `for (var r = r0; r < min(r0 + ${ROWS}u, row_end); r++) { last_position = max(last_position, ${int(v, "query_positions", "b * params.queries + r / params.group")}); }`,
      "end_key = min(end_key, last_position + 1);",
    );
  }
  const tiles = split
    ? /* wgsl */ `
  let begin = u32(max(first_key, 0));
  let tiles = (max(u32(max(end_key, 0)), begin) - begin + ${columns - 1}u) / ${columns}u;
  let end_tile = tiles * (part + 1u) / params.parts;
  for (var t0 = tiles * part / params.parts; t0 < end_tile; t0++) {
    let c0 = begin + t0 * ${columns}u;`
    : /* wgsl */ `
  for (var c0 = u32(max(first_key, 0)); i32(c0) < end_key; c0 += ${columns}u) {`;
  return /* wgsl */ `
  ${range.join("\n  ")}${tiles}
    let used = min(${lanesOf(v)}u, (u32(end_key) - c0 + 3u) / 4u);
    let whole = ${whole.join(" && ")};
    ${body}
  }`;
}

/** Tiles of queries (times the heads of a group) that see the keys from r0 on. */
export function tilesOfQueries(v: FlashVariant, body: string): string {
  if (v.lists) return listed(v, "key", "queries", body);
  const columns = tileColumns(v);
  const range = [
    "let column_first = 0u; let column_end = params.queries * params.group;",
    `let last_key = i32(min(r0 + ${ROWS - 1}u, params.keys - 1u));`,
    "var first_row = 0; var end_row = i32(params.queries);",
  ];
  const whole = [`c0 + ${columns}u <= column_end`];
  if (!v.positions) {
    if (v.causal) {
      range.push("first_row = max(first_row, i32(r0) - params.offset);");
      whole.push("last_key <= i32(c0 / params.group) + params.offset");
    }
    if (v.window) {
      range.push(
        "first_row = max(first_row, i32(r0) - params.offset - params.window_right);",
        "end_row = min(end_row, last_key + 1 - params.offset + params.window_left);",
      );
      whole.push(
        `i32((c0 + ${columns - 1}u) / params.group) + params.offset - i32(r0) <= params.window_left`,
        "last_key - i32(c0 / params.group) - params.offset <= params.window_right",
      );
    }
  }
  return /* wgsl */ `
  ${range.join("\n  ")}
  let end_place = i32(params.group) * end_row;
  for (var c0 = u32(max(first_row, 0)) * params.group; i32(c0) < end_place; c0 += ${columns}u) {
    let used = min(${lanesOf(v)}u, (u32(end_place) - c0 + 3u) / 4u);
    let whole = ${whole.join(" && ")};
    ${body}
  }`;
}
