import {
  applyOp,
  defineKernel,
  grid1d,
  matmul,
  stridedCopy,
  stridesOf,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import { LANES, matrixRecurrenceWgsl, type MatrixRecurrenceVariant } from "./matrix_recurrence.wgsl.js";

const recurrenceKernel: Kernel<MatrixRecurrenceVariant> = defineKernel({
  name: "matrixRecurrence",
  bindings: ({ added }: MatrixRecurrenceVariant) => ({
    m: "read f32" as const,
    ...(added ? { b: "read f32" as const } : {}),
    states: "read_write f32" as const,
    last: "write f32" as const,
  }),
  params: { sequences: "u32", steps: "u32", rows: "u32", columns: "u32" },
  wgsl: matrixRecurrenceWgsl,
});

/** x before every step and x after the last one, walked from `start` (zeros where it is absent). */
function walk(
  m: Tensor,
  b: Tensor | undefined,
  start: Tensor | undefined,
  columns: number,
  reverse: boolean,
): { states: Tensor; last: Tensor } {
  const { gpu } = m;
  const [steps, rows] = m.shape.slice(-3) as [number, number];
  const outer = m.shape.slice(0, -3);
  const sequences = m.size / (steps * rows * rows);
  const states = gpu.empty([...outer, steps, rows, columns]);
  const last = gpu.empty([...outer, rows, columns]);
  const size = rows * columns;
  stridedCopy(
    "matrixRecurrence",
    [sequences, size],
    { tensor: start ?? gpu.zeros([sequences, size]), strides: stridesOf([sequences, size]) },
    { tensor: states, offset: reverse ? (steps - 1) * size : 0, strides: [steps * size, 1] },
  );
  gpu.run(recurrenceKernel, {
    variant: {
      reverse,
      added: b !== undefined,
      held: gpu.info.software ? 1 : Math.min(8, Math.ceil(rows / LANES)),
    },
    bindings: { m, b, states, last },
    params: { sequences, steps, rows, columns },
    workgroups: grid1d(sequences * Math.ceil(columns / LANES)),
  });
  return { states, last };
}

/**
 * The recurrence x_{n+1} = M_n x_n + b_n of matrices.
 *
 * m [.., steps, rows, rows], b [.., steps, rows, columns], start [.., rows, columns] (zeros where absent), f32. Gives x before
 * every step [.., steps, rows, columns], and the last [.., rows, columns]. Differentiable in all three: with D_n the gradient
 * of x_n, D_n = dx_n + M_n^T D_{n+1}, dM_n = D_{n+1} x_n^T and db_n = D_{n+1}. Shapes are the caller's to check.
 */
export function matrixRecurrence(
  m: Tensor,
  b: Tensor,
  start: Tensor | undefined,
): { states: Tensor; last: Tensor } {
  const columns = b.shape.at(-1)!;
  const [states, last] = applyOp({
    name: "matrixRecurrence",
    inputs: [m, b, start],
    forward: () => {
      const { states, last } = walk(m, b, start, columns, false);
      return { outputs: [states, last] };
    },
    backward: ({ grads, outputs, needs }) => {
      const { states: after, last: first } = walk(m, grads[0], grads[1], columns, true);
      return [
        needs[0] ? matmul(after, outputs[0]!, { transposeB: true }) : undefined,
        after,
        needs[2] ? first : undefined,
      ];
    },
  }) as [Tensor, Tensor];
  return { states, last };
}
