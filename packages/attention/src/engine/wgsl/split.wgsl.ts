import { flatMain } from "@x/kernels";
import type { BindingSpec, ParamType } from "@x/kernels";
import { bind } from "./tile.wgsl.js";

/*
 * How many parts the keys of a decode are split into, and the kernel that joins the parts. An invocation owns
 * one element of the output. Grid: rows * valueDim invocations in workgroups of 64, rows being batch * heads
 * * queries.
 *
 * Bindings: parts_out [parts, rows, valueDim] f32, within a part in the layout of out; parts_lse
 * [parts, rows] f32; out [batch, heads, queries, valueDim], f32 or f16 by its strides; lse
 * [batch, heads, queries] f32.
 */

/** What decides into how many parts the keys are split. */
export interface SplitShape {
  /** Workgroups of the grid without a split: tiles of rows, key heads, batch. */
  readonly workgroups: number;
  /** Keys that a row may see. */
  readonly keys: number;
  /** The adapter is a software implementation. */
  readonly software: boolean;
}

/** Keys that are worth a workgroup and its share of the merge. */
const KEYS = 256;
/** Workgroups that fill the adapter: WebGPU does not tell, so a few for each core of a large GPU, or of a CPU. */
const FULL = { gpu: 256, cpu: 8 };

/**
 * Parts of the keys: as many as bring the grid up to the workgroups that fill the adapter, of at least 256 keys each.
 * A grid of many rows fills the adapter alone, and its keys are not split.
 */
export function partsFor({ workgroups, keys, software }: SplitShape): number {
  const wanted = Math.floor((software ? FULL.cpu : FULL.gpu) / Math.max(workgroups, 1));
  return Math.max(1, Math.min(wanted, Math.floor(keys / KEYS)));
}

export interface MergeVariant {
  readonly out: string;
}

export const mergeBindings = (v: MergeVariant): Record<string, BindingSpec> => ({
  parts_out: bind("read", "f32"),
  parts_lse: bind("read", "f32"),
  out: bind("write", v.out),
  lse: bind("write", "f32"),
});

export const mergeParams: Record<string, ParamType> = {
  o_stride: "vec4<u32>",
  heads: "u32",
  queries: "u32",
  rows: "u32",
  value_dim: "u32",
  parts: "u32",
};

/**
 * Joins parts of a softmax, after Dao et al. 2023 (Flash-Decoding): out = sum_p w_p out_p / sum_p w_p and
 * lse = m + log sum_p w_p with w_p = exp(lse_p - m), m the largest lse_p, in the order of the parts. A part that saw
 * nothing (lse 3e38, out 0) has weight 0. One thread for each element of out.
 */
export const mergeText = (v: MergeVariant): string => /* wgsl */ `
const EMPTY = 1.0e38;
${flatMain("n", "params.rows * params.value_dim")}
  let row = n / params.value_dim;
  let d = n % params.value_dim;
  let line = row / params.queries;
  let at = vec3u(line / params.heads, line % params.heads, row % params.queries);
  var top = -3.0e38;
  for (var p = 0u; p < params.parts; p++) {
    let own = parts_lse[p * params.rows + row];
    top = max(top, select(own, top, own > EMPTY));
  }
  var total = 0.0;
  var sum = 0.0;
  for (var p = 0u; p < params.parts; p++) {
    let own = parts_lse[p * params.rows + row];
    let weight = select(exp(own - top), 0.0, own > EMPTY);
    total += weight;
    let at_part = dot(vec4u(p * params.rows * params.value_dim, at), vec4u(1u, params.o_stride.xyz)) + d;
    sum = fma(weight, parts_out[at_part], sum);
  }
  let none = total == 0.0;
  out[dot(at, params.o_stride.xyz) + d] = ${v.out}(sum * select(1.0 / total, 0.0, none));
  if (d == 0u) { lse[row] = select(top + log(total), 3.0e38, none); }
}`;
