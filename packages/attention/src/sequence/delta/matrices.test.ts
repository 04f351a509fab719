import { describe, it } from "vitest";
import type { Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { matrixRecurrence } from "./matrix_recurrence.js";
import { unitLowerInverse } from "./unit_lower_inverse.js";

/** x before each step of x_{n+1} = M_n x_n + b_n, and the last, of every sequence; sizes of m, b and start. */
function recurrenceReference(
  [sequences, steps, rows, columns]: readonly [number, number, number, number],
  m: Float64Array,
  b: Float64Array,
  start: Float64Array | undefined,
): number[] {
  const [states, lasts]: [number[], number[]] = [[], []];
  const size = rows * columns;
  for (let s = 0; s < sequences; s++) {
    let x = Array.from({ length: size }, (_, i) => start?.[s * size + i] ?? 0);
    for (let n = s * steps; n < (s + 1) * steps; n++) {
      states.push(...x);
      const before = x;
      x = before.map((_, i) => {
        const [d, e] = [Math.floor(i / columns), i % columns];
        let sum = b[n * size + i]!;
        for (let l = 0; l < rows; l++) sum += m[(n * rows + d) * rows + l]! * before[l * columns + e]!;
        return sum;
      });
    }
    lasts.push(...x);
  }
  return [...states, ...lasts];
}

describe("what the chunkwise delta rules are made of", () => {
  const device = useGpu();
  const hardware = useGpu({ hardware: true });

  it.each([
    ["one tile of columns", [2, 3, 3, 2], device, true],
    ["from an empty state", [1, 2, 2, 17], device, false],
    ["rows held several at a time, as a GPU runs it", [1, 2, 18, 2], hardware, true],
  ] as const)("matrixRecurrence, %s: values and gradients", async (_, sizes, holder, started) => {
    const [sequences, steps, rows, columns] = sizes;
    await checkOp(
      holder.gpu,
      (m, b, start) => {
        const { states, last } = matrixRecurrence(m, b, start);
        return [states, last];
      },
      (m, b, start) => recurrenceReference(sizes, m, b, start),
      [
        operand([sequences, steps, rows, rows], 1),
        operand([sequences, steps, rows, columns], 2),
        ...(started ? [operand([sequences, rows, columns], 3)] : []),
      ],
    );
  });

  it.each([1, 5])(
    "unitLowerInverse of size %i: values and gradients; what lies above is not read",
    async (n) => {
      await checkOp(
        device.gpu,
        (a: Tensor) => unitLowerInverse(a),
        (a) => {
          const out: number[] = [];
          for (let at = 0; at < a.length; at += n * n) {
            const inverse = Array.from({ length: n * n }, () => 0);
            for (let i = 0; i < n; i++)
              for (let j = 0; j <= i; j++) {
                let x = i === j ? 1 : 0;
                for (let l = j; l < i; l++) x -= a[at + i * n + l]! * inverse[l * n + j]!;
                inverse[i * n + j] = x;
              }
            out.push(...inverse);
          }
          return out;
        },
        [operand([2, n, n], 1)],
      );
    },
  );
});
