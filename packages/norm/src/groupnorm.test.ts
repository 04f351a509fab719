import { describe, expect, it } from "vitest";
import { DTypeError, ShapeError } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu } from "@x/testing";
import { GroupNorm, groupNorm } from "./groupnorm.js";
import { groupNormReference } from "./groupnorm.reference.js";
import { upload } from "./test-support.js";

describe("groupNorm", () => {
  const device = useGpu();

  it("equals its reference, with gradients", async () => {
    for (const [shape, numGroups] of [
      [[3, 4, 2, 2], 2],
      [[2, 6, 5], 3],
      [[2, 5], 1],
      [[2, 3, 7], 3],
    ] as const) {
      const p = { shape, numGroups, eps: 1e-3 };
      const channels = shape[1];
      await checkOp(
        device.gpu,
        (x, weight, bias) => groupNorm(x, { numGroups, eps: 1e-3, weight, bias }),
        (x, w, b) => groupNormReference(p, x, w, b),
        [operand(shape, 1), operand([channels], 2), operand([channels], 3)],
      );
    }
    for (const [weight, bias] of [
      [true, false],
      [false, true],
      [false, false],
    ])
      await checkOp(
        device.gpu,
        (x, t) => groupNorm(x, { numGroups: 2, weight: weight ? t : undefined, bias: bias ? t : undefined }),
        (x, t) =>
          groupNormReference(
            { shape: [2, 4, 3], numGroups: 2, eps: 1e-5 },
            x,
            weight ? t : undefined,
            bias ? t : undefined,
          ),
        [operand([2, 4, 3], 4), operand([4], 5)],
      );
  });

  it("does not see an offset or a factor of a group, and keeps its figures under a large mean", async () => {
    const { gpu } = device;
    const x = operand([2, 4, 50], 6);
    const moved = { ...x, data: x.data.map((v, i) => Math.fround(i < 100 ? 4 * v + 2 : v)) };
    const run = (given: typeof x) => groupNorm(upload(gpu, given), { numGroups: 2, eps: 0 }).read();
    expect(relativeError(await run(moved), await run(x))).toBeLessThan(1e-5);
    const far = { ...x, data: x.data.map((v) => Math.fround(3000 + v)) };
    const expected = groupNormReference({ shape: x.shape, numGroups: 2, eps: 1e-5 }, far.data);
    const got = await groupNorm(upload(gpu, far), { numGroups: 2 }).read();
    expect(relativeError(got, expected)).toBeLessThan(3e-6);
  });

  it("is a component, and takes an empty batch", async () => {
    const { gpu } = device;
    const norm = GroupNorm.init(gpu, { dim: 4, numGroups: 2, eps: 0.1 });
    expect(Object.keys(norm.parameters())).toEqual(["weight", "bias"]);
    const x = operand([2, 4, 3], 1);
    const expected = groupNormReference({ shape: x.shape, numGroups: 2, eps: 0.1 }, x.data);
    expect(relativeError(await norm.forward(upload(gpu, x)).read(), expected)).toBeLessThan(1e-6);
    const again = new GroupNorm({ dim: 4, numGroups: 2, eps: 0.1 }, norm.parameters());
    expect(await again.forward(upload(gpu, x)).read()).toEqual(await norm.forward(upload(gpu, x)).read());
    expect((await norm.forward(gpu.zeros([0, 4, 3])).read()).length).toBe(0);
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const x = gpu.zeros([2, 4, 3]);
    expect(() => groupNorm(x, { numGroups: 3 })).toThrow(/numGroups is 3; it must divide the 4 channels/);
    expect(() => groupNorm(x, { numGroups: 0 })).toThrow(/numGroups is 0/);
    expect(() => groupNorm(x, {} as never)).toThrow(/numGroups is missing/);
    expect(() => groupNorm(x, { numGroups: 2, weight: gpu.zeros([3]) })).toThrow(ShapeError);
    expect(() => groupNorm(gpu.zeros([4]), { numGroups: 2 })).toThrow(/must be \[batch, channels, \.\.\.\]/);
    expect(() => groupNorm(gpu.zeros([2, 4], "i32"), { numGroups: 2 })).toThrow(DTypeError);
    expect(() => groupNorm(x, { groups: 2 } as never)).toThrow(/unknown key "groups"/);
    expect(() => GroupNorm.init(gpu, { dim: 5, numGroups: 2 })).toThrow(/must divide the 5 channels/);
  });
});
