import { describe, expect, it } from "vitest";
import {
  clip,
  equal,
  gatherND,
  greater,
  less,
  maximum,
  minimum,
  pow,
  scatterElements,
  scatterND,
  takeAlong,
  where,
} from "../index.js";
import { checkOp, operand, useGpu, type Operand } from "../test-support.js";

const device = useGpu();

describe("gather and scatter by tuples, and along an axis", () => {
  it.each(["none", "add", "mul", "max", "min"] as const)(
    "scatter with the reduction %s, values and gradients",
    async (reduction) => {
      const { gpu } = device;
      // Row 1 is met twice, one tuple lies outside.
      const at = gpu.tensor([1, 3, 1, 9], [4, 1], "i32");
      const combine = {
        none: (_: number, b: number) => b,
        add: (a: number, b: number) => a + b,
        mul: (a: number, b: number) => a * b,
        max: Math.max,
        min: Math.min,
      }[reduction];
      await checkOp(
        gpu,
        (x, u) => scatterND(x, at, u, { reduction }),
        (x, u) => {
          const out = Float64Array.from(x);
          [1, 3, 1].forEach((row, i) => {
            for (let c = 0; c < 3; c++) out[row * 3 + c] = combine(out[row * 3 + c]!, u[i * 3 + c]!);
          });
          return out;
        },
        [operand([4, 3], 1), operand([4, 3], 2)],
      );
      const columns = gpu.tensor([1, 1, -1, 0, 2, 2], [2, 3], "i32");
      await checkOp(
        gpu,
        (x, u) => scatterElements(x, columns, u, { axis: 1, reduction }),
        (x, u) => {
          const out = Float64Array.from(x);
          [1, 1, -1, 0, 2, 2].forEach((c, i) => {
            const place = Math.floor(i / 3) * 4 + c;
            if (c >= 0) out[place] = combine(out[place]!, u[i]!);
          });
          return out;
        },
        [operand([3, 4], 3), operand([2, 3], 4)],
      );
    },
  );

  it("gatherND walks batches, takeAlong any axis", async () => {
    const { gpu } = device;
    const at = gpu.tensor([1, 0], [2, 1], "i32");
    await checkOp(
      gpu,
      (x) => gatherND(x, at, { batchDims: 1 }),
      (x) => [x[2]!, x[3]!, x[4]!, x[5]!],
      [operand([2, 2, 2], 1)],
    );
    const along = gpu.tensor([2, 0, 1, 1], [2, 2], "i32");
    await checkOp(
      gpu,
      (x) => takeAlong(x, along, 0),
      (x) => [x[6]!, x[1]!, x[3]!, x[4]!],
      [operand([3, 3], 1)],
    );
    const x = gpu.tensor([1, 2, 3, 4], [2, 2]);
    const outside = gpu.tensor([0, 0, 2, 0, -1, 1], [3, 2], "i32");
    expect([...(await gatherND(x, outside).read())]).toEqual([1, NaN, NaN]);
    expect([...(await gatherND(gpu.tensor([1, 2, 3, 4], [2, 2], "i32"), outside).read())]).toEqual([1, 0, 0]);
    expect([...(await scatterND(x, outside, gpu.tensor([9, 9, 9], [3])).read())]).toEqual([9, 2, 3, 4]);
    expect(() => scatterND(x, outside, gpu.zeros([2]))).toThrow(/updates have shape \[2\]/);
    expect(() => gatherND(x, gpu.zeros([1, 3], "i32"))).toThrow(/must hold 1\.\.2 indices/);
  });
});

describe("clip, pow and comparisons", () => {
  const of = (...data: number[]): Operand => ({ shape: [data.length], data: Float64Array.from(data) });

  it("clip and pow, values and gradients", async () => {
    const { gpu } = device;
    await checkOp(
      gpu,
      (x) => clip(x, -0.5, 0.25),
      (x) => x.map((v) => Math.min(Math.max(v, -0.5), 0.25)),
      [operand([9], 2)],
    );
    await checkOp(
      gpu,
      (x) => clip(x, undefined, 0.25),
      (x) => x.map((v) => Math.min(v, 0.25)),
      [operand([9], 2)],
    );
    await checkOp(
      gpu,
      (x) => pow(x, 3),
      (x) => x.map((v) => v ** 3),
      [of(-2, -0.5, 0.7, 1.5)],
    );
    await checkOp(
      gpu,
      (x) => pow(x, -2),
      (x) => x.map((v) => v ** -2),
      [of(-2, -0.5, 0.7, 1.5)],
    );
    await checkOp(
      gpu,
      (a, b) => pow(a, b),
      (a, b) => a.map((v, i) => v ** b[i]!),
      [of(0.5, 2, 3), of(1.5, -0.5, 2)],
    );
    await checkOp(
      gpu,
      (b) => pow(2, b),
      (b) => b.map((v) => 2 ** v),
      [of(0.5, 2, -3)],
    );
    expect([...(await pow(gpu.tensor([0, 0, -8, -1], [4]), gpu.tensor([0, 2, 0.5, 3], [4])).read())]).toEqual(
      [1, 0, NaN, -1],
    );
  });

  it("NaN spreads, comparisons choose", async () => {
    const { gpu } = device;
    const x = gpu.tensor([1, NaN, 3], [3]);
    for (const out of [maximum(x, 2), minimum(x, 2), maximum(2, x), clip(x, 0, 2)])
      expect((await out.read())[1]).toBeNaN();
    const y = gpu.tensor([1, 2, 3], [3]);
    expect([
      ...(await less(y, 2).read()),
      ...(await equal(y, 2).read()),
      ...(await greater(y, 2).read()),
    ]).toEqual([1, 0, 0, 0, 1, 0, 0, 0, 1]);
    expect([...(await where(greater(y, 1), y, -1).read())]).toEqual([-1, 2, 3]);
  });
});
