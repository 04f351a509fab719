/*
 * A recurrence of matrices, x_{n+1} = M_n x_n + b_n. A workgroup of 16 by 16 invocations owns 16 columns of x of one sequence
 * and walks its steps; an invocation owns one of these columns and every 16th row of it, HELD rows at a time. A step reads the
 * x of the step before from storage, where other invocations of the workgroup wrote it; a barrier stands between two steps.
 * Grid: sequences times groups of 16 columns.
 *
 * Bindings: m [sequences, steps, rows, rows]; b [sequences, steps, rows, columns], which may be absent; states, its shape:
 * x before each step; last [sequences, rows, columns]: x after the last one. The caller fills the first state. In reverse the
 * steps go from the last to the first, and M is transposed.
 */

export interface MatrixRecurrenceVariant {
  readonly reverse: boolean;
  /** There is a b. */
  readonly added: boolean;
  /** Loops over the held rows have constant bounds in any case; a CPU's compiler is slow with long ones. */
  readonly held: number;
}

/** Columns and lanes of rows of a workgroup. */
export const LANES = 16;

/** x_{n+1} = M_n x_n + b_n from `states`; in reverse x_n = M_n^T x_{n+1} + b_n. */
export const matrixRecurrenceWgsl = ({
  reverse,
  added,
  held,
}: MatrixRecurrenceVariant): string => /* wgsl */ `
@compute @workgroup_size(${LANES}, ${LANES})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) lane: vec3u,
) {
  let tiles = (params.columns + ${LANES - 1}u) / ${LANES}u;
  let tile = group.y * groups.x + group.x;
  let sequence = tile / tiles;
  let e = tile % tiles * ${LANES}u + lane.x;
  let inside = sequence < params.sequences && e < params.columns;
  let size = params.rows * params.columns;
  for (var step = 0u; step < params.steps; step++) {
    let n = sequence * params.steps + ${reverse ? "params.steps - 1u - step" : "step"};
    let before = n * size + e;
    let matrix = n * params.rows * params.rows;
    if (inside) {
      for (var first = lane.y; first < params.rows; first += ${LANES * held}u) {
        var sums: array<f32, ${held}>;
        for (var h = 0u; h < ${held}u; h++) {
          let d = min(first + h * ${LANES}u, params.rows - 1u);
          sums[h] = ${added ? "b[before + d * params.columns]" : "0.0"};
        }
        for (var l = 0u; l < params.rows; l++) {
          let x = states[before + l * params.columns];
          for (var h = 0u; h < ${held}u; h++) {
            let d = min(first + h * ${LANES}u, params.rows - 1u);
            sums[h] = fma(m[matrix + ${reverse ? "l * params.rows + d" : "d * params.rows + l"}], x, sums[h]);
          }
        }
        for (var h = 0u; h < ${held}u; h++) {
          let d = first + h * ${LANES}u;
          if (d < params.rows) {
            if (step + 1u < params.steps) {
              states[${reverse ? "before - size" : "before + size"} + d * params.columns] = sums[h];
            } else {
              last[sequence * size + d * params.columns + e] = sums[h];
            }
          }
        }
      }
    }
    storageBarrier();
  }
}`;
