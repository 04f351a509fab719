import { flatMain } from "@x/kernels";
import type { BindingSpec, ParamType } from "@x/kernels";
import { backwardInputs, backwardLoaders } from "./backward.wgsl.js";
import { float, foldedBindings } from "../fold.js";
import { LOW, scoreFunctions } from "./scores.wgsl.js";
import { bases, bind, flashParams, loader, ROWS, spans, type FlashVariant } from "./tile.wgsl.js";

/*
 * The matrix of scores or weights of attention, or sums of it by distance. An invocation owns one line: a
 * query of one head, or a key of one head for the lines of columns, and walks along it in order. Grid: batch
 * * heads * queries (or keys) invocations in workgroups of 64; nothing is shared within a workgroup.
 *
 * Bindings: the inputs of `backward.wgsl.ts` that the kind reads; dscores [batch, heads, queries, keys] f32;
 * line_index i32, the row of each distance; sum f32: [batch, heads, queries, keys] for "dense", else
 * [batch, heads, queries or keys, rows].
 */

/** What a reduction over the matrix of one head collects, one thread per row (or column). */
type CollectKind = "weights" | "scores" | "given" | "values";

/**
 * Sums by distance, or the matrix itself ("dense"): for each row (or key), over its line of the matrix, of p
 * ("weights"), of the scores themselves ("values"), or of ds before the terms that follow, with ds from the cotangent of
 * the output ("scores") or as it is given. Each thread owns its outputs, and what is not seen stays as it was.
 */
export interface CollectVariant extends FlashVariant {
  readonly collect: CollectKind;
  /** "row": lines are queries; "column": lines are keys; "dense": out[b, h, row, col]. */
  readonly line: "row" | "column" | "dense";
  /** The collected term: the derivatives of those after it enter. */
  readonly after: number;
}

/** Which of the backward kernels' inputs a kind does without. */
const unread: Record<CollectKind, readonly string[]> = {
  scores: [],
  weights: ["v", "dout", "delta"],
  given: ["v", "dout", "delta", "lse"],
  values: ["v", "dout", "delta", "lse"],
};

export function collectBindings(v: CollectVariant): Record<string, BindingSpec> {
  const inputs = Object.entries(backwardInputs(v)).filter(([name]) => !unread[v.collect].includes(name));
  return {
    ...foldedBindings(v, Object.fromEntries(inputs)),
    ...(v.collect === "given" ? { dscores: bind("read", "f32") } : {}),
    ...(v.line === "dense" ? {} : { line_index: bind("read", "i32") }),
    sum: "read_write f32",
  };
}

export function collectParams(v: CollectVariant): Record<string, ParamType> {
  return { ...flashParams(v), line_rows: "u32", line_min: "i32", lines: "u32" };
}

/** `body` for each n, keys of a row or queries of a column, that the masks may let see the line's `own`. */
function alongLine(v: CollectVariant, body: string): string {
  const column = v.line === "column";
  if (v.lists) {
    const [rows, head, places] = column
      ? ([
          "key",
          "",
          (at: string) => `(${at} + params.group - 1u - h % params.group) / params.group`,
        ] as const)
      : (["query", " * params.group + h % params.group", (at: string) => at] as const);
    return /* wgsl */ `
  ${spans(v, column ? "keys" : "queries")}
  let own_tile = (own % step * row_span + own / step${head}) / ${ROWS}u;
  let visit_at = params.${rows}_visits + i32(kv_head) * params.${rows}_visits_stride + i32(own_tile);
  for (var visit = ints[visit_at]; visit < ints[visit_at + 1]; visit += 2) {
    let begin = u32(ints[visit] >> 1u);
    let first = begin / column_span;
    let end = ${places("(u32(ints[visit + 1]) - first * column_span)")};
    for (var p = ${places("(begin % column_span)")}; p < end; p++) {
      let n = first + p * step;
      if (n >= params.${column ? "queries" : "keys"}) { break; }${body}
    }
  }`;
  }
  const range = [`var first = 0; var end = i32(params.${column ? "queries" : "keys"});`];
  if (!v.positions) {
    range.push(`let middle = i32(own) ${column ? "-" : "+"} params.offset;`);
    const [before, after] = column ? ["right", "left"] : ["left", "right"];
    if (v.causal) range.push(column ? "first = max(first, middle);" : "end = min(end, middle + 1);");
    if (v.window)
      range.push(
        `first = max(first, middle - params.window_${before});`,
        `end = min(end, middle + params.window_${after} + 1);`,
      );
  }
  return `${range.join("\n  ")}
  for (var at_n = first; at_n < end; at_n++) { let n = u32(at_n);${body}
  }`;
}

export function collectText(v: CollectVariant): string {
  const scores = v.collect === "scores";
  const weight = `exp(s.x - ${v.collect === "weights" || scores ? float(v, "lse", "at_row") : "0.0"})`;
  const value = {
    weights: weight,
    scores: weight,
    given: "dscores[at_row * params.keys + col] * s.y",
    values: "s.x",
  }[v.collect];
  return /* wgsl */ `
${bases}
${scoreFunctions(v, v.after)}
${
  scores
    ? backwardLoaders(v)
    : `${loader("q", v.vecQK, "params.head_dim")}
${loader("k", v.vecQK, "params.head_dim")}`
}
${flatMain("line", "params.lines")}
  let extent = params.${v.line === "column" ? "keys" : "queries"};
  let b = line / extent / params.heads;
  let h = line / extent % params.heads;
  let kv_head = h / params.group;
  let own = line % extent;
  ${alongLine(
    v,
    /* wgsl */ `
    let row = ${v.line === "column" ? "n" : "own"};
    let col = ${v.line === "column" ? "own" : "n"};
    let at = place(b, row, col);
    if (!seen(b, h, row, col, at)) { continue; }
    let x = q_base(b, h, row);
    let y = k_base(b, kv_head, col);
    var raw = 0.0;
    for (var d = 0u; d < params.head_dim; d += 4u) { raw += dot(q4(x, d), k4(y, d)); }
    let s = score(raw * params.scale, b, h, row, col, at);
    if (s.x <= ${LOW}) { continue; }
    let at_row = (b * params.heads + h) * params.queries + row;
    var value = ${value};
    ${
      scores
        ? `let g = o_base(b, h, row);
    let z = v_base(b, kv_head, col);
    var dp = 0.0;
    for (var d = 0u; d < params.value_dim; d += 4u) { dp += dot(dout4(g, d), v4(z, d)); }
    value *= (weight_gradient(dp, b, h, row, at) - ${float(v, "delta", "at_row")}) * s.y;`
        : ""
    }
    ${v.line === "dense" ? "sum[line * params.keys + col] = value;" : "sum[line * params.line_rows + u32(line_index[at.x - at.y - params.line_min])] += value;"}`,
  )}
}`;
}
