import { derive, e, exprToWgsl, type BindingSpec, type Expr, type ParamType } from "@x/kernels";
import { float, foldedParams, int } from "../fold.js";

/*
 * The score of a query and a key after the product: terms, masks and positions. A fragment: the kernel that
 * includes it says what an invocation owns, and calls `seen` and `score` for each pair.
 *
 * Bindings, each only where the variant has it: term<n> f32: [heads, rows], [batch, heads, queries, rows] or
 * [batch, heads, keys, rows] of a relative term, or a bias by strides that broadcast; index<n> i32, the row
 * of each distance; slopes<n> [heads] f32; mask i32 by strides over [batch, heads, queries, keys]; key_mask
 * and docs [batch, keys] i32; query_positions [batch, queries] and key_positions [batch, keys] i32; ints i32,
 * tables of a pattern. What `fold.ts` folds lies in `ints` and `floats` instead.
 */

/** A term of the score as the shader sees it; tensors are bound under the term's number. */
export type ScoreTerm =
  | { readonly kind: "pointwise"; readonly expr: Expr; readonly slopes: boolean }
  | { readonly kind: "relative"; readonly axes: "h" | "bhq" | "bhk" }
  | { readonly kind: "bias" };

/** Everything that changes the text of a score besides q.k. */
export interface ScoreVariant {
  readonly terms: readonly ScoreTerm[];
  readonly causal: boolean;
  readonly window: boolean;
  readonly mask: boolean;
  readonly keyMask: boolean;
  readonly docs: boolean;
  /** Text of `fn pattern(h: u32, i: i32, j: i32) -> bool`; i and j are positions. */
  readonly pattern: string | undefined;
  /** Parameters `pattern_<n>` of that text; with any, or with lists, `ints` is bound. */
  readonly patternValues: number;
  /** The kernels follow lists of tiles in `ints`. */
  readonly lists: boolean;
  /** Rows and columns stand in the order of tables in `ints`. */
  readonly ordered: boolean;
  /** Positions come from buffers (caches) instead of row numbers. */
  readonly positions: boolean;
  /** A key's position is at least its number. */
  readonly inOrder: boolean;
  /** What is bound within `ints` and `floats` instead of by its name. */
  readonly folded: readonly string[];
}

/** A score of a pair that is not seen. A term of at most LOW, such as a bias of -inf, hides its pair. */
export const LOW = "-3.0e38";

/** What keeps finite scores above LOW. */
const harmless = new Set<Expr["op"]>(["input", "add", "sub", "mul", "neg", "tanh"]);
const keeps = (expr: Expr): boolean =>
  (expr.op === "const" ? Number.isFinite(expr.value) : harmless.has(expr.op)) && expr.args.every(keeps);
/** Whether a term may hide a pair. */
export const mayHide = (term: ScoreTerm): boolean => term.kind !== "pointwise" || !keeps(term.expr);

const read = (element: string): BindingSpec => `read ${element}`;

export function scoreBindings(v: ScoreVariant): Record<string, BindingSpec> {
  const out: Record<string, BindingSpec> = {};
  v.terms.forEach((term, t) => {
    if (term.kind !== "pointwise") out[`term${t}`] = read("f32");
    if (term.kind === "relative") out[`index${t}`] = read("i32");
    if (term.kind === "pointwise" && term.slopes) out[`slopes${t}`] = read("f32");
  });
  if (v.mask) out["mask"] = read("i32");
  if (v.keyMask) out["key_mask"] = read("i32");
  if (v.docs) out["docs"] = read("i32");
  if (v.lists || v.patternValues > 0) out["ints"] = read("i32");
  if (v.positions) {
    out["query_positions"] = read("i32");
    out["key_positions"] = read("i32");
  }
  return out;
}

export function scoreParams(v: ScoreVariant): Record<string, ParamType> {
  const out = foldedParams(v);
  v.terms.forEach((term, t) => {
    if (term.kind === "relative") {
      out[`min${t}`] = "i32";
      out[`rows${t}`] = "u32";
    }
    if (term.kind === "bias") out[`stride${t}`] = "vec4<u32>";
  });
  if (v.mask) out["mask_stride"] = "vec4<u32>";
  for (let n = 0; n < v.patternValues; n++) out[`pattern_${n}`] = "i32";
  const own = [
    ...(v.lists ? ["query_visits", "query_visits_stride", "key_visits", "key_visits_stride"] : []),
    ...(v.ordered ? ["order", "order_stride"] : []),
  ];
  for (const name of own) out[name] = "i32";
  return out;
}

/** Row of a relative term's tensor, before the row of the distance. */
const relativeRow = (axes: "h" | "bhq" | "bhk"): string =>
  ({
    h: "h",
    bhq: "(b * params.heads + h) * params.queries + row",
    bhk: "(b * params.heads + h) * params.keys + col",
  })[axes];

/**
 * `place(b, row, col)`: positions of a query and a key; `seen(..)`: whether the masks let the row see the key;
 * `score(raw, ..)`: (the score, its derivative by the raw one, or by what term `since` adds); at most LOW where a term
 * hides the pair, whatever the raw score is.
 */
export function scoreFunctions(v: ScoreVariant, since = -1): string {
  const conditions: string[] = [];
  const document = (n: string): string => int(v, "docs", `b * params.keys + ${n}`);
  if (v.positions) conditions.push("at.y >= 0");
  if (v.causal) conditions.push("at.y <= at.x");
  if (v.window) conditions.push("at.x - at.y <= params.window_left", "at.y - at.x <= params.window_right");
  if (v.mask) conditions.push(`${int(v, "mask", "dot(vec4u(b, h, row, col), params.mask_stride)")} != 0`);
  if (v.keyMask) conditions.push(`${int(v, "key_mask", "b * params.keys + col")} != 0`);
  if (v.docs)
    conditions.push(
      `${document("col")} >= 0`,
      `${document("col")} == ${document("min(row + u32(params.offset), params.keys - 1u)")}`,
    );
  if (v.pattern !== undefined) conditions.push("pattern(h, at.x, at.y)");
  const helpers = new Map<string, string>();
  const body: string[] = [];
  const add = (t: number, text: string): void => {
    body.push(`let add${t} = ${text};`, `value += add${t};`, `hidden = hidden || add${t} <= ${LOW};`);
  };
  v.terms.forEach((term, t) => {
    switch (term.kind) {
      case "pointwise": {
        const names: Record<string, string> = { score: `s${t}`, distance: "distance", slope: `slope${t}` };
        const slope = derive(term.expr, ["score"], e.const(1))[0] ?? e.const(0);
        const code = exprToWgsl([term.expr, slope], (name) => names[name] ?? name, "f32", `t${t}_`);
        for (const [name, text] of code.helpers) helpers.set(name, text);
        body.push(`let s${t} = value;`);
        if (term.slopes) body.push(`let slope${t} = ${float(v, `slopes${t}`, "h")};`);
        body.push(...code.statements, `value = ${code.results[0]!};`);
        if (t > since) body.push(`rate *= ${code.results[1]!};`);
        break;
      }
      case "relative":
        add(
          t,
          float(
            v,
            `term${t}`,
            `(${relativeRow(term.axes)}) * params.rows${t} + u32(${int(v, `index${t}`, `at.x - at.y - params.min${t}`)})`,
          ),
        );
        break;
      case "bias":
        add(t, float(v, `term${t}`, `dot(vec4u(b, h, row, col), params.stride${t})`));
    }
  });
  return /* wgsl */ `
${[...helpers.values()].join("\n")}
${v.pattern === undefined ? "" : v.pattern}
fn place(b: u32, row: u32, col: u32) -> vec2i {
  ${
    v.positions
      ? `return vec2i(${int(v, "query_positions", "b * params.queries + row")}, ${int(v, "key_positions", "b * params.keys + min(col, params.keys - 1u)")});`
      : "return vec2i(i32(row) + params.offset, i32(col));"
  }
}
fn seen(b: u32, h: u32, row: u32, col: u32, at: vec2i) -> bool {
  return ${conditions.length > 0 ? conditions.join("\n    && ") : "true"};
}
fn score(raw: f32, b: u32, h: u32, row: u32, col: u32, at: vec2i) -> vec2f {
  var value = raw;
  var rate = 1.0;
  var hidden = false;
  let distance = f32(at.x - at.y);
  ${body.join("\n  ")}
  return vec2f(select(value, ${LOW}, hidden), rate);
}`;
}
