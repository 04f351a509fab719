import { expect, it } from "vitest";
import { checkOp, operand, relativeError } from "@x/testing";
import { PartialRMSNorm, partialRmsNorm } from "./partial_rmsnorm.js";
import { rmsNorm } from "./rmsnorm.js";
import { rmsNormReference } from "./rmsnorm.reference.js";
import { eachForm, rowsOf, upload, WIDE } from "./test-support.js";

eachForm("partialRmsNorm", (device) => {
  it("takes its statistic from the first k features, with gradients", { timeout: 300_000 }, async () => {
    for (const [dim, p, rounding, k] of [
      [5, 0.5, "floor", 2],
      [5, 0.5, "ceil", 3],
      [8, 0.0625, "floor", 1],
      [63, 0.3, "floor", 18],
      [132, 0.25, "ceil", 33],
      [12, 1, "floor", 12],
    ] as const)
      for (const epsPlacement of dim === 8 ? (["outside", "inside"] as const) : (["outside"] as const))
        await checkOp(
          device.gpu,
          (x, w, b) => partialRmsNorm(x, { weight: w, p, rounding, epsPlacement, eps: 1e-2, bias: b }),
          (x, w, b) => rmsNormReference({ dim, k, eps: 1e-2, epsPlacement }, x, w, b),
          [rowsOf([3, dim], (i) => Math.sin(i * 2.3) + 0.1), operand([dim], 2), operand([dim], 3)],
        );
  });

  it("computes k in double as written: floor(100 * 0.29) is 28", async () => {
    const x = operand([2, 100], 1);
    const y = await partialRmsNorm(upload(device.gpu, x), { p: 0.29 }).read();
    const at = (k: number): Float64Array =>
      rmsNormReference({ dim: 100, k, eps: 1e-8, epsPlacement: "outside" }, x.data);
    expect(relativeError(y, at(28))).toBeLessThan(1e-6);
    expect(relativeError(y, at(29))).toBeGreaterThan(1e-4);
  });

  it("holds at widths past the registers", { timeout: 300_000 }, async () => {
    for (const shape of WIDE) {
      const dim = shape.at(-1)!;
      const x = operand(shape, 1);
      const y = await partialRmsNorm(upload(device.gpu, x), { p: 0.0625 }).read();
      const k = Math.max(1, Math.floor(dim * 0.0625));
      expect(
        relativeError(y, rmsNormReference({ dim, k, eps: 1e-8, epsPlacement: "outside" }, x.data)),
        String(shape),
      ).toBeLessThan(2e-6);
    }
  });

  it("at p = 1 is RMSNorm", async () => {
    const x = upload(device.gpu, operand([4, 30], 3));
    const plain = await rmsNorm(x, { eps: 1e-8, epsPlacement: "outside" }).read();
    expect(relativeError(await partialRmsNorm(x, { p: 1 }).read(), plain)).toBeLessThan(1e-6);
  });

  it("is a component with its weight", async () => {
    const norm = PartialRMSNorm.init(device.gpu, { dim: 16, p: 0.25 });
    const x = upload(device.gpu, operand([2, 16], 1));
    const again = new PartialRMSNorm({ dim: 16, p: 0.25 }, norm.parameters());
    expect(await again.forward(x).read()).toEqual(await partialRmsNorm(x, { p: 0.25 }).read());
  });

  it("refuses what does not fit, by name", () => {
    expect(() => new PartialRMSNorm({ dim: 6, p: 0.5, epsilon: 1 } as never, {})).toThrow(
      /unknown key "epsilon"/,
    );
    const x = device.gpu.zeros([2, 6]);
    expect(() => partialRmsNorm(x, { p: 0 })).toThrow(
      /p is 0; it must be a finite number above 0, at most 1/,
    );
    expect(() => partialRmsNorm(x, { p: 1.5 })).toThrow(/p is 1.5/);
    expect(() => partialRmsNorm(x, {} as never)).toThrow(/p is missing/);
    expect(() => partialRmsNorm(x, { p: 0.5, rounding: "round" as never })).toThrow(/rounding/);
  });
});
