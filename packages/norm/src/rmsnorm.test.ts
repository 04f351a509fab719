import fc from "fast-check";
import { expect, it } from "vitest";
import { ConfigError, DTypeError, ShapeError, vjp } from "@x/kernels";
import { checkOp, numbers, operand, relativeError } from "@x/testing";
import { RMSNorm, rmsNorm } from "./rmsnorm.js";
import { rmsNormReference } from "./rmsnorm.reference.js";
import { eachForm, SHAPES, upload, WIDE } from "./test-support.js";

eachForm("rmsNorm", (device) => {
  it("equals its reference, with gradients", { timeout: 300_000 }, async () => {
    for (const shape of SHAPES) {
      const dim = shape.at(-1)!;
      const [x, w, b] = [operand(shape, 1), operand([dim], 2), operand([dim], 3)];
      for (const [eps, epsPlacement] of [
        // One feature divided by itself has a gradient that is all rounding unless eps is large.
        [dim === 1 ? 0.1 : 1e-6, "inside"],
        [0.3, "inside"],
        [dim === 1 ? 0.1 : 1e-3, "outside"],
      ] as const)
        await checkOp(
          device.gpu,
          (x, w, b) => rmsNorm(x, { weight: w, eps, epsPlacement, bias: b }),
          (x, w, b) => rmsNormReference({ dim, eps, epsPlacement }, x, w, b),
          [x, w, b],
        );
    }
    await checkOp(
      device.gpu,
      (x) => rmsNorm(x),
      (x) => rmsNormReference({ dim: 6, eps: 1e-6 }, x),
      [operand([4, 6], 5)],
    );
  });

  it("holds at widths past the registers and rows past a chunk", { timeout: 300_000 }, async () => {
    for (const shape of WIDE) {
      const dim = shape.at(-1)!;
      const [x, w] = [operand(shape, 1), operand([dim], 2)];
      const y = rmsNorm(upload(device.gpu, x), { weight: upload(device.gpu, w) });
      expect(
        relativeError(await y.read(), rmsNormReference({ dim, eps: 1e-6 }, x.data, w.data)),
        String(shape),
      ).toBeLessThan(2e-6);
    }
  });

  it("does not see a factor of its input, and gives rows a mean square of 1", async () => {
    const { gpu } = device;
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 2, max: 40 }), async (rows, dim) => {
        const x = gpu.tensor(numbers(rows * dim, rows + dim), [rows, dim]);
        const scaled = gpu.tensor(
          numbers(rows * dim, rows + dim).map((v) => 8 * v),
          [rows, dim],
        );
        const [a, b] = [await rmsNorm(x, { eps: 0 }).read(), await rmsNorm(scaled, { eps: 0 }).read()];
        expect(relativeError(b, a)).toBeLessThan(1e-6);
        for (let r = 0; r < rows; r++) {
          const row = Array.from(a.slice(r * dim, (r + 1) * dim));
          expect(row.reduce((s, v) => s + (v * v) / dim, 0)).toBeCloseTo(1, 4);
        }
      }),
      { numRuns: 8 },
    );
  });

  it("gives 0 for a row of zeros, and a finite gradient", async () => {
    const x = upload(device.gpu, { shape: [2, 5], data: new Float64Array(10) });
    const w = upload(device.gpu, operand([5], 1));
    const cotangent = upload(device.gpu, operand([2, 5], 2));
    for (const epsPlacement of ["inside", "outside"] as const) {
      const run = vjp(() => [rmsNorm(x, { weight: w, epsPlacement, eps: 0.5 })], [x]);
      const y = run.outputs[0]!;
      expect((await run.pullback([cotangent])[0]!.read()).every(Number.isFinite)).toBe(true);
      expect([...(await y.read())].every((v) => v === 0)).toBe(true);
    }
  });
});

eachForm("RMSNorm", (device) => {
  it("has a weight of ones and names it", async () => {
    const norm = RMSNorm.init(device.gpu, { dim: 6, eps: 1e-5 });
    expect(Object.keys(norm.parameters())).toEqual(["weight"]);
    expect([...(await norm.parameters()["weight"]!.read())]).toEqual(Array(6).fill(1));
    const again = new RMSNorm({ dim: 6, eps: 1e-5 }, norm.parameters());
    const x = upload(device.gpu, operand([3, 6], 1));
    expect(await again.forward(x).read()).toEqual(await norm.forward(x).read());
  });

  it("keeps the place of eps and a bias", async () => {
    const { gpu } = device;
    const own = { eps: 0.5, epsPlacement: "outside" } as const;
    const norm = RMSNorm.init(gpu, { dim: 6, ...own, bias: true });
    expect(Object.keys(norm.parameters())).toEqual(["weight", "bias"]);
    const x = upload(gpu, operand([3, 6], 1));
    expect(await norm.forward(x).read()).toEqual(await rmsNorm(x, own).read());
    const given = { weight: upload(gpu, operand([6], 2)), bias: upload(gpu, operand([6], 3)) };
    expect(await new RMSNorm({ dim: 6, ...own, bias: true }, given).forward(x).read()).toEqual(
      await rmsNorm(x, { weight: given.weight, ...own, bias: given.bias }).read(),
    );
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const x = gpu.zeros([2, 6]);
    expect(() => rmsNorm(x, { weight: gpu.zeros([5]) })).toThrow(
      /rmsNorm: weight has shape \[5\]; it must be \[6\]/,
    );
    expect(() => rmsNorm(x, { bias: gpu.zeros([6, 1]) })).toThrow(ShapeError);
    expect(() => rmsNorm(gpu.zeros([2, 6], "i32"))).toThrow(DTypeError);
    expect(() => rmsNorm(gpu.zeros([2, 0]))).toThrow(/last axis must not be empty/);
    expect(() => rmsNorm(x, { eps: -1 })).toThrow(/eps is -1/);
    expect(() => rmsNorm(x, { epsPlacment: "inside" } as never)).toThrow(/did you mean "epsPlacement"/);
    expect(() => rmsNorm(x, { epsPlacement: "in" as never })).toThrow(ConfigError);
    expect(() => RMSNorm.init(gpu, { dim: 0 })).toThrow(/dim is 0/);
    expect(() => new RMSNorm({ dim: 6 }, {})).toThrow(/parameter weight is missing/);
    const given = { weight: gpu.zeros([6]) };
    expect(() => new RMSNorm({ dim: 6, epsilon: 1e-5 } as never, given)).toThrow(/unknown key "epsilon"/);
  });
});
