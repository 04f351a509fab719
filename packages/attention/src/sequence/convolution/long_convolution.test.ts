import { describe, expect, it } from "vitest";
import { vjp } from "@x/kernels";
import { checkOp, numbers, operand, relativeError, useGpu } from "@x/testing";
import { expectSame, random } from "../../test-support.js";
import { longConvolution } from "./long_convolution.js";
import { convolutionReference } from "../ssm/state_space.reference.js";

describe("longConvolution", () => {
  const device = useGpu();

  it.each([
    ["direct", 2, 7, 3, 7],
    ["direct", 1, 1, 1, 4],
    ["direct", 2, 9, 5, 20],
    ["direct", 1, 33, 2, 3],
    ["fft", 2, 7, 3, 7],
    ["fft", 1, 1, 1, 4],
    ["fft", 1, 65, 3, 20],
    ["fft", 2, 70, 1, 100],
    ["fft", 1, 140, 2, 130],
    ["fft", 1, 40, 2, 40],
  ] as const)(
    "%s: batch %i, %i tokens, %i channels, %i taps, and gradients",
    async (form, batch, seq, dim, taps) => {
      await checkOp(
        device.gpu,
        (x, w) => longConvolution(x, w, { form, block: 64 }),
        (x, w) => convolutionReference({ batch, seq, dim, taps }, x, w),
        [operand([batch, seq, dim], 1), operand([dim, taps], 2)],
      );
    },
  );

  it("blocks of both sizes, and many of them: the direct form's values and gradients", async () => {
    const { gpu } = device;
    for (const [seq, taps, dim, block] of [
      [300, 300, 2, 64],
      [500, 200, 3, 64],
      [1000, 1500, 1, 1024],
      [2300, 2300, 3, 1024],
    ] as const) {
      const [x, w] = [random(gpu, [1, seq, dim], 1), random(gpu, [dim, taps], 2)];
      const results = (["direct", "fft"] as const).map((form) => {
        const run = vjp(() => [longConvolution(x, w, { form, block })], [x, w]);
        return [...run.outputs, ...run.pullback([random(gpu, [1, seq, dim], 3)])];
      });
      for (const [i, direct] of results[0]!.entries()) await expectSame(results[1]![i]!, direct, 5e-6);
    }
  });

  it("is exact to rounding on long sequences: 4097 tokens against float64", async () => {
    const seq = 4097;
    const [x, w] = [numbers(seq, 1), numbers(seq, 2)];
    const out = longConvolution(device.gpu.tensor(x, [1, seq, 1]), device.gpu.tensor(w, [1, seq]), {
      form: "fft",
    });
    const expected = convolutionReference({ batch: 1, seq, dim: 1, taps: seq }, x, w);
    expect(relativeError(await out.read(), expected)).toBeLessThan(1e-6);
  });

  it("keeps nothing", async () => {
    const { gpu } = device;
    const [x, w] = [random(gpu, [1, 90, 3], 1), random(gpu, [3, 90], 2)];
    const { liveBytes } = gpu.memory();
    for (const form of ["direct", "fft"] as const) longConvolution(x, w, { form }).dispose();
    await gpu.sync();
    expect(gpu.memory().liveBytes).toBe(liveBytes);
  });
});
