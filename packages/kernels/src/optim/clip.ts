import { ConfigError } from "../base/errors.js";
import { partsOf } from "../kernel/flat_run.js";
import { defineKernel } from "../kernel/kernel.js";
import type { Tensor } from "../tensor/tensor.js";
import { expectDType, expectNumber, expectRecord } from "../base/validate.js";

const MAX_GROUPS = 64;
const GROUP_ELEMENTS = 16384;

const squaresKernel = defineKernel({
  name: "sumOfSquares",
  bindings: (v: { dtype: string }) => ({
    x: `read vec4<${v.dtype}>`,
    partial: "read_write f32",
  }),
  params: { count: "u32", size: "u32", offset: "u32" },
  wgsl: () => /* wgsl */ `
var<workgroup> sums: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  var total = 0.0;
  for (var i = group.x * 64u + lane; i < params.count; i += groups.x * 64u) {
    var v = vec4f(x[i]);
    // The last vector may reach past the tensor.
    v = select(vec4f(), v, vec4u(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u) < vec4u(params.size));
    total += dot(v, v);
  }
  sums[lane] = total;
  workgroupBarrier();
  if (lane == 0u) {
    var s = 0.0;
    for (var i = 0u; i < 64u; i++) { s += sums[i]; }
    partial[params.offset + group.x] = s;
  }
}`,
});

const clipKernel = defineKernel({
  name: "clipGradNorm",
  bindings: { partial: "read f32", norm: "write f32", scale: "write f32" },
  params: { count: "u32", limit: "f32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(1)
fn main() {
  var total = 0.0;
  for (var i = 0u; i < params.count; i++) { total += partial[i]; }
  let n = sqrt(total);
  norm[0] = n;
  let factor = params.limit / (n + 1e-6);
  // Not min: a norm that is NaN must be seen in the scale.
  scale[0] = select(factor, 1.0, factor > 1.0);
}`,
});

/**
 * Norm of all gradients together, and the factor min(1, maxNorm / norm) that brings it to `maxNorm` (Pascanu et
 * al. 2013). Both are f32 scalars on the GPU; give `scale` to the optimizer's step. Summed in a fixed order. Gradients
 * are f32 or f16. A recording freezes `maxNorm`.
 *
 * @throws ConfigError, DTypeError
 */
export function clipGradNorm(
  grads: Readonly<Record<string, Tensor>>,
  maxNorm: number,
): { norm: Tensor; scale: Tensor } {
  expectRecord("clipGradNorm", "grads", grads);
  for (const [name, grad] of Object.entries(grads))
    expectDType("clipGradNorm", `gradient ${name}`, grad, "f32", "f16");
  expectNumber("clipGradNorm", "maxNorm", maxNorm, 0);
  const list = Object.values(grads);
  const gpu = list[0]?.gpu;
  if (!gpu) throw new ConfigError("clipGradNorm", "was given no gradients");
  const parts = list.flatMap((x) =>
    partsOf(gpu, Math.ceil(x.size / 4), x.dtype === "f16" ? 8 : 16).map((part) => ({ x, ...part })),
  );
  const groups = parts.map((p) =>
    Math.max(1, Math.min(MAX_GROUPS, Math.ceil((4 * p.count) / GROUP_ELEMENTS))),
  );
  const total = groups.reduce((a, b) => a + b, 0);
  return gpu.scope(() => {
    const partial = gpu.empty([total]);
    let offset = 0;
    parts.forEach(({ x, first, count }, i) => {
      const length = Math.min(4 * count, x.size - 4 * first);
      gpu.run(squaresKernel, {
        variant: { dtype: x.dtype },
        bindings: { x: { tensor: x, offset: 4 * first, length }, partial },
        params: { count, size: length, offset },
        workgroups: [groups[i]!],
      });
      offset += groups[i]!;
    });
    const norm = gpu.empty([]);
    const scale = gpu.empty([]);
    gpu.run(clipKernel, { bindings: { partial, norm, scale }, params: { count: total, limit: maxNorm } });
    return { norm, scale };
  });
}
