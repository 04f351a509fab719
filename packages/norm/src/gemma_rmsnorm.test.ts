import { expect, it } from "vitest";
import { checkOp, operand } from "@x/testing";
import { rmsNormReference } from "./rmsnorm.reference.js";
import { GemmaRMSNorm, gemmaRmsNorm } from "./gemma_rmsnorm.js";
import { rmsNorm } from "./rmsnorm.js";
import { eachForm, SHAPES, upload } from "./test-support.js";

eachForm("gemmaRmsNorm", (device) => {
  it("multiplies by 1 + weight, with gradients", { timeout: 300_000 }, async () => {
    for (const shape of SHAPES) {
      const dim = shape.at(-1)!;
      await checkOp(
        device.gpu,
        (x, w) => gemmaRmsNorm(x, { weight: w, eps: 1e-3 }),
        (x, w) => rmsNormReference({ dim, eps: 1e-3, offset: 1 }, x, w),
        [operand(shape, 1), operand([dim], 2)],
      );
    }
  });

  it("starts as the plain norm: its weight is 0", async () => {
    const { gpu } = device;
    const norm = GemmaRMSNorm.init(gpu, { dim: 12 });
    const x = upload(gpu, operand([3, 12], 4));
    expect(await norm.forward(x).read()).toEqual(await rmsNorm(x).read());
    expect(await new GemmaRMSNorm({ dim: 12 }, norm.parameters()).forward(x).read()).toEqual(
      await norm.forward(x).read(),
    );
  });

  it("refuses what does not fit, by name", () => {
    expect(() => new GemmaRMSNorm({ dim: 6, epsilon: 1 } as never, {})).toThrow(/unknown key "epsilon"/);
    expect(() => gemmaRmsNorm(device.gpu.zeros([2, 6]), { weight: device.gpu.zeros([2]) })).toThrow(
      /gemmaRmsNorm: weight has shape \[2\]/,
    );
    expect(() => gemmaRmsNorm(device.gpu.zeros([2, 6]), { bias: 1 } as never)).toThrow(/unknown key "bias"/);
  });
});
