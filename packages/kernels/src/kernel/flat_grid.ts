import { grid1d } from "./kernel.js";

/** Invocations of a workgroup where a kernel says no other number. */
const SIZE = 64;

/**
 * WGSL of an entry point with one invocation for each index 0..count-1, spread over two dimensions of workgroups
 * because one dimension holds at most 65535. The text of the body follows, and the closing brace of `main`.
 *
 * ```ts
 * wgsl: () => `${flatMain("i", "params.count")}
 *   out[i] = x[i] + 1.0;
 * }`
 * gpu.run(kernel, { bindings, params: { count }, workgroups: flatGrid(count) });
 * ```
 *
 * @param index the name of the index (u32)
 * @param count a WGSL expression of the number of indices (u32); invocations at or above it return
 * @param size invocations of a workgroup; the same number goes to `flatGrid`
 */
export function flatMain(index: string, count: string, size: number = SIZE): string {
  return /* wgsl */ `
@compute @workgroup_size(${size})
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let ${index} = id.y * groups.x * ${size}u + id.x;
  if (${index} >= ${count}) { return; }`;
}

/** The workgroups of a kernel whose entry point is `flatMain`. */
export function flatGrid(count: number, size: number = SIZE): [number, number] {
  return grid1d(Math.ceil(count / size));
}
