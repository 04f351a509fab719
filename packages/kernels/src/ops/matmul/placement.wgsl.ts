import type { MatmulVariant } from "./variant.js";

/*
 * Which part of a matrix product a workgroup computes. A fragment for grids
 * [tiles of rows, tiles of columns, matrices]; of grouped rows the third axis is 1, and of grouped sums over
 * k it is the number of groups.
 *
 * Bindings: offsets [groups + 1] u32, rising: where each group's rows (or its k) begin; bound only for
 * grouped products.
 */

/** Offsets of the operands of batch z, in elements. */
export const batchOffsets = (v: MatmulVariant): string =>
  !v.batched
    ? "fn batch_offset(z: u32, stride: vec4u) -> u32 { return 0u; }"
    : /* wgsl */ `
fn batch_offset(z: u32, stride: vec4u) -> u32 {
  let i3 = z % params.batch.w;
  let z2 = z / params.batch.w;
  let i2 = z2 % params.batch.z;
  let z1 = z2 / params.batch.z;
  return dot(vec4u(z1 / params.batch.y, z1 % params.batch.y, i2, i3), stride);
}`;

/**
 * Where a workgroup works: `row0` and `row_end`, `k_first` and `k_end`, the output matrix `z`, the operands' offsets.
 * Grouped rows: the launch has a workgroup for every tile that could exist; each finds its group by walking the
 * offsets; those past the last tile write zeros into the rows of no group, or leave.
 */
export function placement(v: MatmulVariant, tile: number): string {
  switch (v.grouping) {
    case "none":
      return `
  let row0 = group.x * ${tile}u;
  let row_end = params.M;
  let k_first = 0u;
  let k_end = params.K;
  let z = group.z;
  let aBase = batch_offset(z, params.strideA);
  let bBase = batch_offset(z, params.strideB);
  let biasBase = 0u;`;
    case "rows":
      return `
  var left = group.x;
  var member = 0u;
  for (; member < params.batch.w; member++) {
    let tiles = (offsets[member + 1u] - offsets[member] + ${tile - 1}u) / ${tile}u;
    if (left < tiles) { break; }
    left -= tiles;
  }
  // Rows of no group: an empty product.
  let none = member == params.batch.w;
  let row0 = offsets[member] + left * ${tile}u;
  let row_end = select(offsets[min(member + 1u, params.batch.w)], params.M, none);
  if (row0 >= row_end${v.others ? "" : " || none"}) { return; }
  let k_first = 0u;
  let k_end = select(params.K, 0u, none);
  let z = 0u;
  let aBase = 0u;
  let bBase = member * params.strideB.w;
  let biasBase = member * params.N;`;
    case "inner":
      return `
  let row0 = group.x * ${tile}u;
  let row_end = params.M;
  let z = group.z;
  let k_first = offsets[z];
  let k_end = offsets[z + 1u];
  let aBase = 0u;
  let bBase = 0u;
  let biasBase = 0u;`;
  }
}
