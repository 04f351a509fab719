import { describe, expect, it } from "vitest";
import {
  argmax,
  logSoftmax,
  logSumExp,
  max,
  mean,
  min,
  softmax,
  sum,
  variance,
  DTypeError,
  ShapeError,
} from "../index.js";
import { checkOp, numbers, operand, relativeError, useGpu } from "../test-support.js";

for (const [label, features] of [
  ["with the adapter's subgroups", {}],
  ["without subgroups", { subgroups: false }],
] as const)
  describe(`reductions ${label}`, () => {
    const device = useGpu({ features });
    const rows =
      (f: (row: Float64Array) => ArrayLike<number>, width: number) =>
      (x: Float64Array): Float64Array =>
        Float64Array.from(
          Array.from({ length: x.length / width }, (_, r) => [
            ...Array.from(f(x.slice(r * width, (r + 1) * width))),
          ]).flat(),
        );
    const lse = (row: Float64Array): number => {
      const top = Math.max(...row);
      return top + Math.log(row.reduce((s, v) => s + Math.exp(v - top), 0));
    };

    it.each([1, 3, 8, 37, 40])(
      "softmax, logSoftmax and logSumExp of rows of %i, with gradients",
      async (width) => {
        const x = operand([2, 3, width], width);
        await checkOp(
          device.gpu,
          (x) => softmax(x),
          rows((r) => r.map((v) => Math.exp(v - lse(r))), width),
          [x],
        );
        await checkOp(
          device.gpu,
          (x) => logSoftmax(x),
          rows((r) => r.map((v) => v - lse(r)), width),
          [x],
        );
        await checkOp(
          device.gpu,
          (x) => logSumExp(x),
          rows((r) => [lse(r)], width),
          [x],
        );
      },
    );

    it("softmax does not overflow", async () => {
      const y = softmax(device.gpu.tensor([1000, 999, -1000, 88], [4]));
      expect(
        relativeError(await y.read(), [1 / (1 + Math.exp(-1)), Math.exp(-1) / (1 + Math.exp(-1)), 0, 0]),
      ).toBeLessThan(1e-6);
    });

    it("sum, mean and variance over any axes, with gradients", async () => {
      const x = operand([3, 4, 5], 1);
      await checkOp(
        device.gpu,
        (t) => sum(t),
        (v) => [v.reduce((a, b) => a + b, 0)],
        [x],
      );
      const middle = (v: Float64Array): number[] =>
        Array.from({ length: 15 }, (_, i) =>
          [0, 1, 2, 3].reduce((s, j) => s + v[(Math.floor(i / 5) * 4 + j) * 5 + (i % 5)]!, 0),
        );
      await checkOp(device.gpu, (t) => sum(t, { axes: 1 }), middle, [x]);
      await checkOp(
        device.gpu,
        (t) => mean(t, { axes: [1], keepDims: true }),
        (v) => middle(v).map((s) => s / 4),
        [x],
      );
      const outer = (v: Float64Array): number[] =>
        Array.from({ length: 4 }, (_, j) => {
          let s = 0;
          for (let i = 0; i < 3; i++) for (let k = 0; k < 5; k++) s += v[(i * 4 + j) * 5 + k]!;
          return s;
        });
      await checkOp(device.gpu, (t) => sum(t, { axes: [0, -1] }), outer, [x]);
      await checkOp(
        device.gpu,
        (t) => variance(t, { axes: -1 }),
        rows((r) => {
          const m = r.reduce((a, b) => a + b, 0) / 5;
          return [r.reduce((a, b) => a + (b - m) ** 2, 0) / 5];
        }, 5),
        [x],
      );
    });

    it("sums a long axis in float32 without drift", async () => {
      const n = 200_003;
      // Positive numbers: one sum from left to right in float32 is off by 2e-5 of them.
      const x = numbers(n, 5).map((v) => Math.fround(1 + v / 2));
      const total = await sum(device.gpu.tensor(x, [n])).item();
      const exact = x.reduce((a, b) => a + b, 0);
      const plain = x.reduce((a, b) => Math.fround(a + b), 0);
      expect(Math.abs(plain / exact - 1)).toBeGreaterThan(2e-6);
      expect(Math.abs(total / exact - 1)).toBeLessThan(1e-6);
    });

    it("max and min take the first extreme, argmax its position", async () => {
      await checkOp(
        device.gpu,
        (t) => max(t, { axes: 1 }),
        rows((r) => [Math.max(...r)], 7),
        [operand([5, 7], 3)],
      );
      await checkOp(
        device.gpu,
        (t) => min(t),
        (v) => [Math.min(...v)],
        [operand([5, 7], 3)],
      );
      const y = argmax(device.gpu.tensor([1, 5, 5, 0, 9, 9], [2, 3]));
      expect(y.dtype).toBe("i32");
      expect([...(await y.read())]).toEqual([1, 1]);
    });

    it("refuses integers and empty axes", () => {
      const { gpu } = device;
      expect(() => sum(gpu.zeros([3], "i32"))).toThrow(DTypeError);
      expect(() => softmax(gpu.zeros([3], "i32"))).toThrow(DTypeError);
      expect(() => argmax(gpu.zeros([3, 0]))).toThrow(ShapeError);
      expect(() => sum(gpu.zeros([3]), { axes: 1 })).toThrow(/axis is 1/);
    });
  });
