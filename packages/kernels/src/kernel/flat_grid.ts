import { grid1d } from "./kernel.js";

/** Invocations of a workgroup where a kernel says no other number. */
const SIZE = 64;

/**
 * WGSL of an entry point with one invocation for each index 0..count-1, spread over two dimensions of workgroups
 * because one dimension holds at most 65535. The text of the body follows, and the closing brace of `main`.
 *
 * ```ts
 * wgsl: (_, { params }) => `${flatMain("i", params.count)}
 *   out[i] = x[i] + 1.0;
 * }`
 * gpu.run(kernel, { bindings, params: { count }, workgroups: flatGrid(count) });
 * ```
 *
 * @param index the name of the index (u32)
 * @param count a WGSL expression of the number of indices (u32), at or above which invocations return; where it is left
 * out, the body looks at the index itself
 * @param size invocations of a workgroup; the same number goes to `flatGrid`
 */
export function flatMain(index: string, count?: string, size: number = SIZE): string {
  return /* wgsl */ `
@compute @workgroup_size(${size})
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let ${index} = id.y * groups.x * ${size}u + id.x;${guard(index, count)}`;
}

/** The workgroups of a kernel whose entry point is `flatMain`. */
export function flatGrid(count: number, size: number = SIZE): [number, number] {
  return grid1d(Math.ceil(count / size));
}

/**
 * WGSL of an entry point with one workgroup for each index 0..count-1, whose invocations 0..size-1 are `lane`. The text of
 * the body follows, and the closing brace of `main`; the workgroups are `grid1d(count)`.
 *
 * @param index the name of the index (u32)
 * @param count a WGSL expression of the number of indices (u32), at or above which workgroups return; where it is left
 * out, the body looks at the index itself
 * @param size invocations of a workgroup
 */
export function groupMain(index: string, count?: string, size: number = SIZE): string {
  return /* wgsl */ `
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let ${index} = group.y * groups.x + group.x;${guard(index, count)}`;
}

const guard = (index: string, count: string | undefined): string =>
  count === undefined ? "" : `\n  if (${index} >= ${count}) { return; }`;
