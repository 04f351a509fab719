import { expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { operand, relativeError } from "@x/testing";
import { rowNorm } from "./row_norm.js";
import { eachForm, upload } from "../test-support.js";

eachForm("rowNorm", (device) => {
  it("gives zeros, and zeros as gradients, for a row of zeros at eps 0", async () => {
    const { gpu } = device;
    for (const center of [false, true])
      for (const divisor of ["inside", "outside", "length"] as const) {
        const x = gpu.tensor([0, 0, 0, 0, 3, -4, 1, 2], [2, 4]);
        const run = vjp(() => [rowNorm(x, { who: "test", center, divisor, eps: 0 }).out], [x]);
        const label = `${divisor} ${String(center)}`;
        const out = [...(await run.outputs[0]!.read())];
        expect(out.slice(0, 4), label).toEqual([0, 0, 0, 0]);
        expect(out.every(Number.isFinite), label).toBe(true);
        const [dx] = run.pullback([gpu.tensor([1, 2, 3, 4, 5, 6, 7, 8], [2, 4])]);
        const slopes = [...(await dx!.read())];
        expect(slopes.slice(0, 4).map(Math.abs), label).toEqual([0, 0, 0, 0]);
        expect(slopes.every(Number.isFinite), label).toBe(true);
      }
  });

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
