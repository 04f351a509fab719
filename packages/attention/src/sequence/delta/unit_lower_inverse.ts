import { applyOp, defineKernel, elementwise, e, flatGrid, matmul, type Gpu, type Tensor } from "@x/kernels";
import { unitLowerInverseWgsl } from "./unit_lower_inverse.wgsl.js";

const inverseKernel = defineKernel({
  name: "unitLowerInverse",
  bindings: { a: "read f32", inverse: "read_write f32" },
  params: { count: "u32", size: "u32" },
  wgsl: unitLowerInverseWgsl,
});

const masked = elementwise("belowDiagonal", ["x", "mask"], (x, mask) => e.select(mask, x, 0));

/** A square matrix of 1 where `holds`, else 0: [size, size]. */
function where(gpu: Gpu, size: number, holds: (i: number, j: number) => boolean): Tensor {
  const data = Float32Array.from({ length: size * size }, (_, at) =>
    holds(Math.floor(at / size), at % size) ? 1 : 0,
  );
  return gpu.tensor(data, [size, size]);
}
export const belowDiagonal = (gpu: Gpu, size: number): Tensor => where(gpu, size, (i, j) => j < i);
export const toDiagonal = (gpu: Gpu, size: number): Tensor => where(gpu, size, (i, j) => j <= i);
export const identity = (gpu: Gpu, size: number): Tensor => where(gpu, size, (i, j) => j === i);

/**
 * (I + A)^-1 of matrices whose diagonal and upper part count as 0; the gradient of A is -(T^T dT T^T) below the diagonal.
 *
 * a [.., size, size], f32; the result has its shape. Shapes are the caller's to check.
 */
export function unitLowerInverse(a: Tensor): Tensor {
  const { gpu } = a;
  const size = a.shape.at(-1)!;
  return applyOp({
    name: "unitLowerInverse",
    inputs: [a],
    forward: () => {
      const inverse = gpu.empty(a.shape);
      const count = a.size / size;
      gpu.run(inverseKernel, {
        bindings: { a, inverse },
        params: { count, size },
        workgroups: flatGrid(count),
      });
      return { outputs: [inverse] };
    },
    backward: ({ grads, outputs }) => {
      const inverse = outputs[0]!;
      const left = matmul(inverse, grads[0]!, { transposeA: true });
      const whole = matmul(left, inverse, { transposeB: true, alpha: -1 });
      return [masked(whole, belowDiagonal(gpu, size))];
    },
  })[0]!;
}
