import type { ParamType } from "@x/kernels";

/*
 * What the kernels of attention with decay share: where the features of a token lie, and the names of sizes. A fragment: the
 * kernels say what their workgroups own.
 */

/** Pieces of 4 LANES columns that one workgroup accumulates; wider outputs are cut. */
export const MAX_PIECES = 4;

/** Strides are those of batch, head and token, then how many heads share a head. */
export const head = /* wgsl */ `
fn at(stride: vec4u, b: u32, h: u32, t: u32) -> u32 { return b * stride.x + h / stride.w * stride.y + t * stride.z; }`;

export const strides: Record<string, ParamType> = {
  decay_stride: "vec4<u32>",
  x_stride: "vec4<u32>",
  z_stride: "vec4<u32>",
};
export const sizes: Record<string, ParamType> = {
  heads: "u32",
  tokens: "u32",
  chunk: "u32",
  chunks: "u32",
  dim: "u32",
  value_dim: "u32",
  blocks: "u32",
  state_row: "u32",
  scale: "f32",
};
