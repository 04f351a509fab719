import { expect, it } from "vitest";
import { checkOp, operand, relativeError } from "@x/testing";
import { l2Normalize, ScaleNorm, scaleNorm } from "./scalenorm.js";
import { scaleNormReference } from "./scalenorm.reference.js";
import { eachForm, SHAPES, upload, WIDE } from "./test-support.js";

eachForm("scaleNorm", (device) => {
  it("equals its reference, with gradients", { timeout: 300_000 }, async () => {
    for (const shape of SHAPES.filter((shape) => shape.at(-1)! > 1)) {
      const dim = shape.at(-1)!;
      await checkOp(
        device.gpu,
        (x, g) => scaleNorm(x, { g }),
        (x, g) => scaleNormReference({ dim, eps: 1e-5 }, x, g[0]),
        [operand(shape, 1), operand([1], 2)],
      );
    }
  });

  it("divides rows shorter than eps by eps, gradients too", async () => {
    await checkOp(
      device.gpu,
      (x, g) => scaleNorm(x, { g, eps: 100 }),
      (x, g) => scaleNormReference({ dim: 7, eps: 100 }, x, g[0]),
      [operand([3, 7], 1), operand([1], 2)],
    );
    await checkOp(
      device.gpu,
      (x) => l2Normalize(x, { eps: 50 }),
      (x) => scaleNormReference({ dim: 8, eps: 50 }, x),
      [operand([3, 8], 1)],
    );
  });

  it("gives rows the length g", { timeout: 300_000 }, async () => {
    for (const shape of WIDE) {
      const dim = shape.at(-1)!;
      const x = operand(shape, 1);
      const y = await scaleNorm(upload(device.gpu, x), { g: device.gpu.tensor([3], [1]) }).read();
      expect(relativeError(y, scaleNormReference({ dim, eps: 1e-5 }, x.data, 3))).toBeLessThan(2e-6);
      for (let r = 0; r < 2; r++) {
        const row = Array.from(y.slice(r * dim, (r + 1) * dim));
        expect(Math.sqrt(row.reduce((s, v) => s + v * v, 0))).toBeCloseTo(3, 4);
      }
    }
  });

  it("is a component with g = sqrt(dim)", async () => {
    const norm = ScaleNorm.init(device.gpu, { dim: 16 });
    expect(await norm.parameters()["g"]!.item()).toBe(4);
    const x = upload(device.gpu, operand([2, 16], 1));
    expect(await new ScaleNorm({ dim: 16 }, norm.parameters()).forward(x).read()).toEqual(
      await norm.forward(x).read(),
    );
    expect(() => new ScaleNorm({ dim: 16 }, {})).toThrow(/parameter g is missing/);
  });

  it("refuses what does not fit, by name", () => {
    expect(() => new ScaleNorm({ dim: 6, epsilon: 1 } as never, {})).toThrow(/unknown key "epsilon"/);
    const x = device.gpu.zeros([2, 6]);
    expect(() => scaleNorm(x, { g: device.gpu.zeros([6]) })).toThrow(
      /scaleNorm: g has shape \[6\]; it must be \[1\]/,
    );
    expect(() => scaleNorm(x, { g: device.gpu.zeros([1]), eps: -1 })).toThrow(/eps is -1/);
    expect(() => scaleNorm(x, { g: device.gpu.zeros([1]), epx: 1 } as never)).toThrow(
      /scaleNorm: unknown key "epx"/,
    );
    expect(() => l2Normalize(x, { epx: 1 } as never)).toThrow(/unknown key "epx"/);
  });
});
