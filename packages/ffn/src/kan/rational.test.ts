import { describe, expect, it } from "vitest";
import { ConfigError, ShapeError } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { fastKan, katRational } from "../index.js";

describe("katRational", () => {
  const device = useGpu();

  it.each(["sumAbs", "absSum"] as const)("%s: float64 values and gradients", async (denominator) => {
    const [groups, width, m, n] = [2, 3, 3, 2];
    await checkOp(
      device.gpu,
      (x, a, b) => [katRational(x, { numerator: a, denominator: b }, { groups, denominator })],
      (x, a, b) =>
        Array.from(x, (v, i) => {
          const g = Math.floor(i / width) % groups;
          let p = 0;
          for (let j = 0; j <= m; j++) p += a[g * (m + 1) + j]! * v ** j;
          let q = 0;
          for (let j = 1; j <= n; j++) {
            const c = b[g * n + j - 1]!;
            q += denominator === "sumAbs" ? Math.abs(c) * Math.abs(v) ** j : c * v ** j;
          }
          return p / (1 + Math.abs(q));
        }),
      [operand([5, groups * width], 1), operand([groups, m + 1], 2), operand([groups, n], 3)],
      { h: 1e-5 },
    );
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const weights = { numerator: gpu.zeros([2, 4]), denominator: gpu.zeros([2, 2]) };
    const run = (dim: number, groups: number) => () => katRational(gpu.zeros([3, dim]), weights, { groups });
    expect(run(5, 2)).toThrow(/its last axis must be a multiple of groups, 2/);
    expect(run(6, 3)).toThrow(ShapeError);
    const none = { ...weights, denominator: gpu.zeros([2, 0]) };
    expect(() => katRational(gpu.zeros([3, 4]), none, { groups: 2 })).toThrow(/it must have a coefficient/);
  });
});

describe("fastKan", () => {
  const device = useGpu();

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const splineWeight = gpu.zeros([2, 12]);
    const x = gpu.zeros([3, 4]);
    expect(() => fastKan(x, { splineWeight })).toThrow(/splineWeight has shape \[2, 12\]/);
    const three = { numGrids: 3 };
    expect(() => fastKan(x, { splineWeight }, { ...three, gridMin: 2 })).toThrow(
      "fastKan: gridMin is 2; it must be below gridMax, 2",
    );
    expect(() => fastKan(x, { splineWeight, baseBias: gpu.zeros([2]) }, three)).toThrow(
      /baseBias is given without baseWeight/,
    );
    expect(() =>
      fastKan(x, { splineWeight, normBias: gpu.zeros([4]) }, { ...three, layerNorm: false }),
    ).toThrow(ConfigError);
    expect(() => fastKan(x, { splineWeight, normBias: gpu.zeros([2]) }, three)).toThrow(ShapeError);
  });
});
