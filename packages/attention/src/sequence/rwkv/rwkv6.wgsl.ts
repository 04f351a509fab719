import { flatMain } from "@x/kernels";
import type { BindingSpec, ParamType } from "@x/kernels";
import { bind, element, loader } from "../../engine/wgsl/tile.wgsl.js";

/*
 * RWKV-6's recurrence, whose decay differs by channel of the keys. An invocation of `rwkv6Walk` owns a row or a column of the
 * matrix of one chunk, head and sequence: count = batch heads chunks dim. An invocation of `rwkv6Scan` owns one element of the
 * matrix for all chunks: count = batch heads dim dim. Grids: count invocations in workgroups of 64.
 *
 * Bindings: xs, ys, zs, decay, out [batch, heads, tokens, dim], where the strides say; bonus [heads, dim]; start and last
 * [batch, heads, dim, dim], or one for each chunk; each [batch, heads, chunks, dim, dim]; gains [batch, heads, chunks, dim].
 */

export interface WalkVariant {
  /** The number of features is a multiple of four. */
  readonly vec: boolean;
  /** Fours of features that an invocation holds. */
  readonly pieces: number;
  /** They are registers; else an array that a loop goes through, which a compiler for CPUs takes in far less time. */
  readonly registers: boolean;
  /** From the last token to the first. */
  readonly reverse: boolean;
  /** The invocation's index is the values', and decays run along what it holds; else the keys', with one decay. */
  readonly ofValues: boolean;
  /** A matrix to begin with; else zeros. */
  readonly initial: boolean;
  readonly rows: boolean;
  readonly matrix: boolean;
  /** The whole decay of each chunk goes out with the matrix. */
  readonly gains: boolean;
}

export const walkParams: Record<string, ParamType> = {
  stride: "vec4<u32>",
  count: "u32",
  heads: "u32",
  tokens: "u32",
  chunk: "u32",
  chunks: "u32",
  dim: "u32",
};

export const walkBindings = (v: WalkVariant): Record<string, BindingSpec> => ({
  ...(v.rows ? { xs: bind("read", element("f32", v.vec)), bonus: bind("read", "f32") } : {}),
  ys: bind("read", element("f32", v.vec)),
  zs: bind("read", "f32"),
  decay: bind("read", element("f32", v.ofValues && v.vec)),
  ...(v.initial ? { start: bind("read", "f32") } : {}),
  ...(v.rows ? { out: bind("write", "f32") } : {}),
  ...(v.matrix ? { last: bind("write", "f32") } : {}),
  ...(v.gains ? { gains: bind("write", "f32") } : {}),
});

/**
 * One invocation walks the tokens of a chunk with one row or column M of a matrix in registers:
 *
 *   out_t = x_t . (M + bonus y_t z_t), then M = decay_t M + y_t z_t,
 *
 * where x, y are vectors along M and z is the invocation's number. Forward with (r, k, v) this is the output, and M a column of S;
 * with (dout, v, k), one decay an invocation, dr and a row of S. In reverse M is of the gradient of S: (k, r, dout) gives dv,
 * (v, dout, r) dk.
 */
export const rwkv6Walk = (v: WalkVariant): string => /* wgsl */ `
${v.rows ? loader("xs", v.vec, "params.dim") : ""}
${loader("ys", v.vec, "params.dim")}
${v.ofValues ? loader("decay", v.vec, "params.dim") : ""}
${flatMain("i", "params.count")}
  let own = i % params.dim;
  let c = i / params.dim % params.chunks;
  let h = i / params.dim / params.chunks % params.heads;
  let b = i / params.dim / params.chunks / params.heads;
  let first = c * params.chunk;
  let length = min(params.chunk, params.tokens - first);
  // Element d of M lies at place + d * step.
  let matrix = i / params.dim * params.dim * params.dim;
  ${
    v.ofValues
      ? "let place = matrix + own; let step = params.dim;"
      : "let place = matrix + own * params.dim; let step = 1u;"
  }
  var m: array<vec4f, ${v.pieces}>;
  ${
    v.initial
      ? /* wgsl */ `for (var d = 0u; d < params.dim; d++) { m[d / 4u][d % 4u] = start[place + d * step]; }`
      : ""
  }
  ${
    v.rows
      ? v.ofValues
        ? /* wgsl */ `var u: array<vec4f, ${v.pieces}>;
  for (var d = 0u; d < params.dim; d++) { u[d / 4u][d % 4u] = bonus[h * params.dim + d]; }`
        : "let u = bonus[h * params.dim + own];"
      : ""
  }
  var gain = 1.0;
  for (var n = 0u; n < length; n++) {
    let t = first + ${v.reverse ? "length - 1u - n" : "n"};
    let base = dot(vec3u(b, h, t), params.stride.xyz);
    let z = zs[base + own];
    ${v.ofValues ? "" : "let g = decay[base + own];"}
    ${v.gains ? `gain *= ${v.ofValues && v.vec ? "decay[(base + own) / 4u][own % 4u]" : "decay[base + own]"};` : ""}
    var sum = vec4f();
    for (var p = 0u; p < ${v.registers ? `${v.pieces}u` : "(params.dim + 3u) / 4u"}; p++) {
      let entering = z * ys4(base, 4u * p);
      ${v.rows ? `sum = fma(xs4(base, 4u * p), fma(${v.ofValues ? "u[p]" : "vec4f(u)"}, entering, m[p]), sum);` : ""}
      m[p] = fma(${v.ofValues ? "decay4(base, 4u * p)" : "vec4f(g)"}, m[p], entering);
    }
    ${v.rows ? "out[base + own] = (sum.x + sum.y) + (sum.z + sum.w);" : ""}
  }
  ${v.matrix ? "for (var d = 0u; d < params.dim; d++) { last[place + d * step] = m[d / 4u][d % 4u]; }" : ""}
  ${v.gains ? "gains[i] = gain;" : ""}
}`;

export const scanParams: Record<string, ParamType> = { count: "u32", size: "u32", dim: "u32", chunks: "u32" };

export interface ChunkScanVariant {
  readonly initial: boolean;
  readonly reverse: boolean;
}

export const scanBindings = (v: ChunkScanVariant): Record<string, BindingSpec> => ({
  ...(v.initial ? { start: bind("read", "f32") } : {}),
  gains: bind("read", "f32"),
  each: bind("read_write", "f32"),
  last: bind("write", "f32"),
});

/** S_{c+1} = gain_c S_c + U_c with a gain for a row, one invocation for an element; `each` holds U and then S_c. */
export const rwkv6Scan = (v: ChunkScanVariant): string => /* wgsl */ `
${flatMain("i", "params.count")}
  var s = ${v.initial ? "start[i]" : "0.0"};
  for (var n = 0u; n < params.chunks; n++) {
    let place = (i / params.size * params.chunks + ${v.reverse ? "params.chunks - 1u - n" : "n"}) * params.size + i % params.size;
    let own = each[place];
    each[place] = s;
    s = fma(gains[place / params.dim], s, own);
  }
  last[i] = s;
}`;
