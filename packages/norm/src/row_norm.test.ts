import { expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { operand, relativeError } from "@x/testing";
import { rowNorm } from "./row_norm.js";
import { eachForm, upload } from "./test-support.js";

eachForm("rowNorm", (device) => {
  it(
    "gives the same figures whatever number of rows a group takes together",
    { timeout: 300_000 },
    async () => {
      const { gpu } = device;
      const [rows, width] = [11, 36];
      const inputs = [
        operand([rows, width], 1),
        operand([width], 2),
        operand([width], 3),
        operand([rows, width], 4),
      ];
      const tensors = inputs.map((o) => upload(gpu, o));
      const [x, weight, bias, residual] = tensors as [Tensor, Tensor, Tensor, Tensor];
      const cotangents = [operand([rows, width], 5), operand([rows, width], 6)].map((o) => upload(gpu, o));
      const results: ArrayLike<number>[][] = [];
      for (const block of [1, 2, 4] as const) {
        const run = vjp(() => {
          const y = rowNorm(x, {
            who: "rowNorm",
            center: true,
            divisor: "inside",
            eps: 1e-5,
            weight,
            bias,
            residual,
            residualScale: 0.7,
            block,
          });
          return [y.out, y.residual];
        }, tensors);
        const all = [...run.outputs, ...run.pullback(cotangents)];
        results.push(await Promise.all(all.map((t) => t.read())));
      }
      for (const other of results.slice(1))
        for (const [i, values] of other.entries())
          expect(relativeError(values, results[0]![i]!)).toBeLessThan(3e-6);
    },
  );
});
