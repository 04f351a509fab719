import { flatMain, type BindingSpec } from "@x/kernels";

/*
 * Rotation of feature pairs.
 *
 * An invocation owns one piece of one token, in a range of heads: a piece of pairs, or a piece of the
 * features that do not turn, which it copies. Grid: units * tokens * slices invocations, units being the
 * pieces of a token and slices the ranges of heads, in workgroups of 64 folded into two axes; nothing is
 * shared within a workgroup.
 *
 * Bindings: q, k, q_out, k_out, f32 or f16, [batch, heads, seq, headDim] or [batch, seq, heads, headDim] by
 * their strides, read as vec4 where pieces have four features; cos_table, sin_table [rows, pairs] f32;
 * positions [batch, seq] i32, the row that each token takes. k and k_out are bound only where queries and
 * keys turn together.
 */

export interface RotateVariant {
  readonly dtype: string;
  readonly interleaved: boolean;
  /** Pieces of four features. */
  readonly vec: boolean;
  readonly positions: boolean;
  /** Queries and keys in one pass; otherwise one tensor. */
  readonly both: boolean;
}

export const rotateParams = {
  /** Invocations; pieces that turn and all pieces of a token that an invocation may own; tokens. */
  count: "u32",
  turning: "u32",
  units: "u32",
  tokens: "u32",
  seq: "u32",
  rows: "u32",
  offset: "i32",
  sign: "f32",
  /** Pieces from one sequence element, head and batch row to the next; heads, and heads of an invocation. */
  q_seq: "u32",
  q_head: "u32",
  q_batch: "u32",
  q_heads: "u32",
  q_chunk: "u32",
  k_seq: "u32",
  k_head: "u32",
  k_batch: "u32",
  k_heads: "u32",
  k_chunk: "u32",
} as const;

export function rotateBindings(v: RotateVariant) {
  const element = v.vec ? `vec4<${v.dtype}>` : v.dtype;
  // Four neighbours hold two interleaved pairs; four pairs in halves take four angles.
  const table = v.vec ? (v.interleaved ? "vec2<f32>" : "vec4<f32>") : "f32";
  return {
    q: `read ${element}`,
    ...(v.both ? { k: `read ${element}` } : {}),
    cos_table: `read ${table}`,
    sin_table: `read ${table}`,
    ...(v.positions ? { positions: "read i32" } : {}),
    q_out: `write ${element}`,
    ...(v.both ? { k_out: `write ${element}` } : {}),
  } satisfies Record<string, BindingSpec>;
}

/**
 * One invocation owns a piece of feature pairs of one token, reads its angles once, and turns it in a range of
 * heads: x' = x cos - y sin, y' = y cos + x sin. Invocations past the turning pieces copy.
 */
export function rotateText(v: RotateVariant): string {
  const element = v.vec ? `vec4<${v.dtype}>` : v.dtype;
  const T = v.vec ? "vec4f" : "f32";
  const heads = (x: string, turn: (x: string) => string): string => `
  for (var h = slice * params.${x}_chunk; h < min((slice + 1u) * params.${x}_chunk, params.${x}_heads); h++) {
    let at = b * params.${x}_batch + h * params.${x}_head + s * params.${x}_seq;
    ${turn(x)}
  }`;
  const both = (turn: (x: string) => string): string => heads("q", turn) + (v.both ? heads("k", turn) : "");
  // Pieces of the pair: neighbours, or one from each half.
  const [first, second] = v.interleaved ? ["2u * u", "2u * u + 1u"] : ["u", "u + params.turning"];
  const turn = (x: string): string =>
    v.interleaved && v.vec
      ? `let p = vec4f(${x}[at + u]);
    ${x}_out[at + u] = ${element}(p * vec4f(c.x, c.x, c.y, c.y) + p.yxwz * vec4f(-t.x, t.x, -t.y, t.y));`
      : `let a = ${T}(${x}[at + ${first}]);
    let z = ${T}(${x}[at + ${second}]);
    ${x}_out[at + ${first}] = ${element}(a * c - z * t);
    ${x}_out[at + ${second}] = ${element}(z * c + a * t);`;
  const pieces = v.interleaved && v.vec ? "1u" : "2u";
  return /* wgsl */ `
${flatMain("index", "params.count")}
  let u = index % params.units;
  let token = index / params.units % params.tokens;
  let slice = index / (params.units * params.tokens);
  let b = token / params.seq;
  let s = token % params.seq;
  if (u >= params.turning) {
    let rest = u + (${pieces} - 1u) * params.turning;
    ${both((x) => `${x}_out[at + rest] = ${x}[at + rest];`)}
    return;
  }
  let position = ${v.positions ? "u32(positions[token])" : "u32(params.offset) + s"};
  let row = min(position, params.rows - 1u) * params.turning + u;
  let c = cos_table[row];
  let t = params.sign * sin_table[row];
  ${both(turn)}
}`;
}
