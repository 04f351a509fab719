import { describe, expect, it } from "vitest";
import { concat, groupedMatmul, matmul, ShapeError, slice, vjp, type Tensor } from "../../index.js";
import { checkOp, expectClose, operand, useGpu } from "../../test-support.js";

for (const [label, features] of [
  ["with the adapter's subgroups", {}],
  ["without subgroups", { subgroups: false }],
] as const)
  describe(`groupedMatmul ${label}`, () => {
    const device = useGpu({ features });

    it.each([
      [[0, 3, 3, 11, 12], 5, 6],
      [[0, 0, 9, 12, 12], 8, 12],
      [[0, 1, 2, 3, 9], 4, 7],
    ])(
      "offsets %j: a matrix for each group of rows, with gradients; strangers give zeros",
      async (offsets, N, K) => {
        const { gpu } = device;
        const starts = gpu.tensor(offsets, [5], "u32");
        await checkOp(
          gpu,
          (x, w, b) => groupedMatmul(x, w, starts, { bias: b }),
          (x, w, b) => {
            const out = new Float64Array(12 * N);
            for (let e = 0; e < 4; e++)
              for (let r = offsets[e]!; r < offsets[e + 1]!; r++)
                for (let n = 0; n < N; n++) {
                  let sum = b[e * N + n]!;
                  for (let k = 0; k < K; k++) sum += x[r * K + k]! * w[(e * N + n) * K + k]!;
                  out[r * N + n] = sum;
                }
            return out;
          },
          [operand([12, K], 1), operand([4, N, K], 2), operand([4, N], 3)],
        );
      },
    );

    it("spans many tiles", async () => {
      const { gpu } = device;
      const [M, N, K] = [150, 40, 36];
      const offsets = [0, 70, 71, 71, 150];
      const starts = gpu.tensor(offsets, [5], "u32");
      await checkOp(
        gpu,
        (x, w) => groupedMatmul(x, w, starts),
        (x, w) => {
          const out = new Float64Array(M * N);
          for (let r = 0; r < M; r++) {
            const e = r < 70 ? 0 : r < 71 ? 1 : 3;
            for (let n = 0; n < N; n++)
              for (let k = 0; k < K; k++) out[r * N + n]! += x[r * K + k]! * w[(e * N + n) * K + k]!;
          }
          return out;
        },
        [operand([M, K], 1), operand([4, N, K], 2)],
        { gradients: false },
      );
    });

    it("large: equals a product for each group, with gradients", async () => {
      const { gpu } = device;
      const [M, N, K] = [520, 516, 512];
      const offsets = [0, 77, 77, 390, 515];
      const starts = gpu.tensor(offsets, [5], "u32");
      const make = (shape: number[], seed: number): Tensor => gpu.tensor(operand(shape, seed).data, shape);
      const [x, w, g] = [make([M, K], 1), make([4, N, K], 2), make([M, N], 3)];
      const grouped = vjp(() => [groupedMatmul(x, w, starts)], [x, w]);
      const apart = vjp(() => {
        const parts = [0, 2, 3].map((e) => {
          const [start, end] = [offsets[e]!, offsets[e + 1]!];
          const rows = slice(x, { axis: 0, start, end });
          return matmul(rows, slice(w, { axis: 0, start: e, end: e + 1 }).reshape([N, K]), {
            transposeB: true,
          });
        });
        return [concat([...parts, gpu.zeros([M - offsets[4]!, N])])];
      }, [x, w]);
      const expected = [...apart.outputs, ...apart.pullback([g])];
      for (const [i, own] of [...grouped.outputs, ...grouped.pullback([g])].entries())
        await expectClose(own, await expected[i]!.read());
    });

    it("refuses what does not fit", () => {
      const { gpu } = device;
      expect(() => groupedMatmul(gpu.zeros([3, 4]), gpu.zeros([2, 5, 3]), gpu.zeros([3], "u32"))).toThrow(
        ShapeError,
      );
      expect(() => groupedMatmul(gpu.zeros([3, 4]), gpu.zeros([2, 5, 4]), gpu.zeros([2], "u32"))).toThrow(
        /offsets/,
      );
    });
  });
