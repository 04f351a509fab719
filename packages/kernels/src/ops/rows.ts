import { groupMain } from "../kernel/flat_grid.js";
import { foldLanes } from "../kernel/fold_lanes.js";
import type { Gpu } from "../device/gpu.js";
import type { Tensor } from "../tensor/tensor.js";

/** What changes the text of a kernel that gives each row of a matrix to one group of lanes. */
export interface RowVariant {
  /** Lanes of the subgroup that takes a row; 0: a workgroup of 64 reduces through workgroup memory. */
  readonly lanes: number;
  /** Rows are read by vec4. */
  readonly vec: boolean;
  /** Element type in memory. */
  readonly dtype: string;
}

/** One subgroup per row where subgroups have one size and a CPU runs them (barriers are dear there). */
export function rowLanes(gpu: Gpu): number {
  const { subgroups, subgroupMinSize, subgroupMaxSize } = gpu.features;
  return gpu.info.software && subgroups && subgroupMinSize === subgroupMaxSize && subgroupMinSize >= 4
    ? subgroupMinSize
    : 0;
}

export function rowVariant(x: Tensor, width: number): RowVariant {
  return { lanes: rowLanes(x.gpu), vec: width % 4 === 0 && width > 0, dtype: x.dtype };
}

/** Storage element of a row variant. */
export const rowElement = (v: RowVariant, dtype: string = v.dtype): string =>
  v.vec ? `vec4<${dtype}>` : dtype;

/**
 * WGSL that row kernels share: the type `T` of a piece (vec4f or f32), `WIDTH`, `fold_sum`, `fold_max`, and the
 * reductions `row_sum` and `row_max` over the lanes of a row. `PIECE` is the number of elements of a piece.
 */
export function rowPrelude(v: RowVariant): string {
  const fold = v.vec
    ? `alias T = vec4f;
const PIECE = 4u;
fn fold_sum(x: T) -> f32 { return (x.x + x.y) + (x.z + x.w); }
fn fold_max(x: T) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }`
    : `alias T = f32;
const PIECE = 1u;
fn fold_sum(x: T) -> f32 { return x; }
fn fold_max(x: T) -> f32 { return x; }`;
  if (v.lanes > 0) {
    return `${fold}
const WIDTH = ${String(v.lanes)}u;
fn row_sum(x: f32, lane: u32) -> f32 { return subgroupAdd(x); }
fn row_max(x: f32, lane: u32) -> f32 { return subgroupMax(x); }`;
  }
  const reduce = (name: string, op: (a: string, b: string) => string): string => `
fn ${name}(x: f32, lane: u32) -> f32 {
  workgroupBarrier();
  row_partial[lane] = x;
${foldLanes("row_partial", op)}
  workgroupBarrier();
  return row_partial[0];
}`;
  return `${fold}
const WIDTH = 64u;
var<workgroup> row_partial: array<f32, 64>;
${reduce("row_sum", (a, b) => `${a} + ${b}`)}
${reduce("row_max", (a, b) => `max(${a}, ${b})`)}`;
}

/** Head of `main` of a row kernel: `row`, `lane`, and `first`, the row's first piece. */
export function rowMain(v: RowVariant, body: string): string {
  return /* wgsl */ `
${groupMain("row", "params.rows", v.lanes || 64)}
  let pieces = params.width / PIECE;
  let first = row * pieces;
  ${body}
}`;
}

/**
 * WGSL of `top`, the largest finite bound of a row: its maximum, between the least and the largest float32, so that
 * x - top stays a number where x is infinite.
 */
export const rowTop = /* wgsl */ `var m = T(-3.4028234e38);
  for (var i = lane; i < pieces; i += WIDTH) { m = max(m, T(x[first + i])); }
  let top = min(row_max(fold_max(m), lane), 3.4028234e38);`;
