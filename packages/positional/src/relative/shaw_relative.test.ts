import { describe, expect, it } from "vitest";
import { ConfigError, ShapeError } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { shawIndex, shawKeys, ShawRelative, shawValues } from "./shaw_relative.js";
import { biasMatrix, dot, GRIDS, matrixOf } from "../test-support.js";

const row = (distance: number, m: number): number => Math.min(m, Math.max(-m, -distance)) + m;

describe("shawRelative", () => {
  const device = useGpu();

  it("clips key minus query", () => {
    const index = shawIndex(2);
    expect([5, 2, 1, 0, -1, -2, -9].map((d) => index.at(d))).toEqual([0, 0, 1, 2, 3, 4, 4]);
    expect(shawIndex(0).at(7)).toBe(0);
  });

  it("adds scale q_i . relKey[row] to the scores, with gradients", async () => {
    const D = 5;
    for (const grid of GRIDS)
      for (const m of [1, 3])
        await checkOp(
          device.gpu,
          (q, relKey) => biasMatrix(shawKeys(q, { relKey, index: shawIndex(m), scale: 0.7 }), grid),
          (q, relKey) =>
            matrixOf(
              grid,
              (b, h, i, _, d) =>
                0.7 * dot(q, ((b * grid.heads + h) * grid.queries + i) * D, relKey, row(d, m) * D, D),
            ),
          [operand([grid.batch, grid.heads, grid.queries, D], 1), operand([2 * m + 1, D], 2)],
        );
  });

  it("adds the weights' sums by distance times relValue to the output, with gradients", async () => {
    const [B, H, S, m, D] = [2, 2, 3, 2, 4];
    await checkOp(
      device.gpu,
      (out, weightSums, relValue) => shawValues(out, { weightSums, relValue }),
      (out, sums, relValue) =>
        out.map((v, n) => {
          const [line, d] = [Math.floor(n / D), n % D];
          let sum = v;
          for (let r = 0; r < 2 * m + 1; r++) sum += sums[line * (2 * m + 1) + r]! * relValue[r * D + d]!;
          return sum;
        }),
      [operand([B, H, S, D], 1), operand([B, H, S, 2 * m + 1], 2), operand([2 * m + 1, D], 3)],
    );
  });

  it("is a component with one table, the other, or both", () => {
    const { gpu } = device;
    const both = ShawRelative.init(gpu, { headDim: 4, maxDistance: 3 });
    expect(Object.entries(both.parameters()).map(([name, t]) => [name, t.shape])).toEqual([
      ["relKey", [7, 4]],
      ["relValue", [7, 4]],
    ]);
    const q = gpu.zeros([1, 2, 3, 4]);
    expect(both.modifiers(q, 1)).toHaveLength(1);
    const keys = ShawRelative.init(gpu, { headDim: 4, maxDistance: 3, useValue: false });
    expect(Object.keys(keys.parameters())).toEqual(["relKey"]);
    expect(keys.weightSums).toBeUndefined();
    expect(keys.output(q, undefined)).toBe(q);
    const values = ShawRelative.init(gpu, { headDim: 4, maxDistance: 3, useKey: false });
    expect(values.modifiers(q, 1)).toEqual([]);
    const again = new ShawRelative({ headDim: 4, maxDistance: 3, useKey: false }, values.parameters());
    expect(again.parameters()).toEqual(values.parameters());
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    expect(() => shawIndex(-1)).toThrow(/maxDistance is -1/);
    expect(() =>
      shawKeys(gpu.zeros([1, 1, 2, 4]), { relKey: gpu.zeros([4, 4]), index: shawIndex(2), scale: 1 }),
    ).toThrow(ShapeError);
    expect(() =>
      ShawRelative.init(gpu, { headDim: 4, maxDistance: 3, useKey: false, useValue: false }),
    ).toThrow(ConfigError);
    expect(() =>
      ShawRelative.init(gpu, { headDim: 4, maxDistance: 3 }).output(gpu.zeros([1]), undefined),
    ).toThrow(/weightSums is missing/);
  });
});
