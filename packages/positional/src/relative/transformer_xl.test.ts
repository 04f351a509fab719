import { describe, expect, it } from "vitest";
import { ConfigError, ShapeError } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { sinusoidalTable } from "../absolute/sinusoidal.js";
import { biasMatrix, dot, GRIDS, matrixOf } from "../test-support.js";
import { TransformerXlRelative, transformerXlRelative } from "./transformer_xl.js";

describe("transformerXl", () => {
  const device = useGpu();

  it("adds scale (q_i + v) . (W_r R_d) and gives q + u, with gradients", async () => {
    const [D, modelDim, scale] = [3, 6, 0.6];
    for (const grid of GRIDS)
      for (const clampLength of [undefined, 2]) {
        const { batch, heads, queries, keys, offset } = grid;
        const config = {
          modelDim,
          clampLength,
          scale,
          minDistance: offset - (keys - 1),
          maxDistance: offset + queries - 1,
        };
        await checkOp(
          device.gpu,
          (q, relProj, contentBias, positionBias) => {
            const { query, modifier } = transformerXlRelative(q, {
              relProj,
              contentBias,
              positionBias,
              ...config,
            });
            return [query, biasMatrix(modifier, grid)];
          },
          (q, relProj, u, v) => {
            const line = (n: number): number => (Math.floor(n / (D * queries)) % heads) * D + (n % D);
            const shifted = q.map((x, n) => x + v[line(n)]!);
            const bias = matrixOf(grid, (b, h, i, _, d) => {
              const R = sinusoidalTable([Math.min(d, clampLength ?? Infinity)], {
                dim: modelDim,
                layout: "concat",
              });
              let sum = 0;
              for (let c = 0; c < D; c++)
                sum +=
                  shifted[((b * heads + h) * queries + i) * D + c]! *
                  dot(relProj, (h * D + c) * modelDim, R, 0, modelDim);
              return scale * sum;
            });
            return [...q.map((x, n) => x + u[line(n)]!), ...bias];
          },
          [
            operand([batch, heads, queries, D], 1),
            operand([heads * D, modelDim], 2),
            operand([heads, D], 3),
            operand([heads, D], 4),
          ],
        );
      }
  });

  it("takes a clamp that lies before every distance seen", async () => {
    const grid = { batch: 1, heads: 1, queries: 1, keys: 2, offset: 9 };
    const { modifier } = transformerXlRelative(device.gpu.tensor([1, 2], [1, 1, 1, 2]), {
      relProj: device.gpu.tensor([1, 0, 0, 1], [2, 2]),
      contentBias: device.gpu.zeros([1, 2]),
      positionBias: device.gpu.zeros([1, 2]),
      modelDim: 2,
      clampLength: 3,
      scale: 1,
      minDistance: 8,
      maxDistance: 9,
    });
    const expected = Math.sin(3) + 2 * Math.cos(3);
    for (const value of await biasMatrix(modifier, grid).read()) expect(value).toBeCloseTo(expected, 5);
  });

  it("is a component with the checkpoints' names", () => {
    const { gpu } = device;
    const settings = { numHeads: 2, headDim: 4, modelDim: 8 };
    const xl = TransformerXlRelative.init(gpu, settings);
    expect(Object.entries(xl.parameters()).map(([name, t]) => [name, t.shape])).toEqual([
      ["r_net.weight", [8, 8]],
      ["r_w_bias", [2, 4]],
      ["r_r_bias", [2, 4]],
    ]);
    expect(new TransformerXlRelative(settings, xl.parameters()).parameters()).toEqual(xl.parameters());
    expect(() => new TransformerXlRelative(settings, {})).toThrow(/r_net.weight is missing/);
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const xl = TransformerXlRelative.init(gpu, { numHeads: 2, headDim: 4, modelDim: 8 });
    const range = { scale: 1, minDistance: 0, maxDistance: 3 };
    expect(() => xl.prepare(gpu.zeros([1, 3, 4, 4]), range)).toThrow(ShapeError);
    expect(() => xl.prepare(gpu.zeros([1, 2, 4, 4]), { ...range, maxDistance: -1 })).toThrow(
      /maxDistance is -1/,
    );
    expect(() => TransformerXlRelative.init(gpu, { numHeads: 2, headDim: 4, modelDim: 7 })).toThrow(
      /modelDim is 7; it must be even/,
    );
    expect(() => xl.prepare(gpu.zeros([1, 2, 4, 4]), { ...range, clamp: 1 } as never)).toThrow(ConfigError);
  });
});
