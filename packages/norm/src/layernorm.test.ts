import { expect, it } from "vitest";
import { DTypeError, ShapeError, vjp } from "@x/kernels";
import { checkOp, operand, relativeError } from "@x/testing";
import { LayerNorm, layerNorm } from "./layernorm.js";
import { layerNormReference } from "./layernorm.reference.js";
import { eachForm, rowsOf, SHAPES, upload, WIDE } from "./test-support.js";

eachForm("layerNorm", (device) => {
  it("equals its reference, with gradients", { timeout: 300_000 }, async () => {
    for (const shape of SHAPES) {
      const dim = shape.at(-1)!;
      if (dim === 1) continue; // its gradient by x is 0, which no relative error measures
      const eps = dim < 3 ? 0.5 : 1e-5;
      await checkOp(
        device.gpu,
        (x, w, b) => layerNorm(x, { weight: w, eps, bias: b }),
        (x, w, b) => layerNormReference({ dim, eps }, x, w, b),
        [operand(shape, 1), operand([dim], 2), operand([dim], 3)],
      );
    }
    for (const [weight, bias] of [
      [true, false],
      [false, true],
      [false, false],
    ])
      await checkOp(
        device.gpu,
        (x, p) => layerNorm(x, { weight: weight ? p : undefined, bias: bias ? p : undefined }),
        (x, p) => layerNormReference({ dim: 9, eps: 1e-5 }, x, weight ? p : undefined, bias ? p : undefined),
        [operand([4, 9], 4), operand([9], 5)],
      );
  });

  it("gives the bias for one feature, and no more than rounding as its gradient", async () => {
    const { gpu } = device;
    const x = gpu.tensor([3, -1, 0.7, 100], [4, 1]);
    const [w, b] = [gpu.tensor([0.3], [1]), gpu.tensor([0.9], [1])];
    const run = vjp(() => [layerNorm(x, { weight: w, eps: 0.25, bias: b })], [x, w, b]);
    expect(await run.outputs[0]!.read()).toEqual(Float32Array.of(0.9, 0.9, 0.9, 0.9).map(Math.fround));
    const [dx, dw, db] = run.pullback([gpu.tensor([0.11, -0.7, 1.3, 0.5], [4, 1])]);
    // A product rounded once, or, fused into a difference, not at all; divided by sqrt(eps).
    for (const value of await dx!.read())
      expect(Math.abs(value)).toBeLessThanOrEqual((1.3 * 0.3 * 2 ** -24) / 0.5);
    expect(await dw!.item()).toBe(0);
    expect(await db!.item()).toBeCloseTo(1.21, 6);
  });

  it("holds at widths past the registers and rows past a chunk", { timeout: 300_000 }, async () => {
    for (const shape of WIDE) {
      const dim = shape.at(-1)!;
      const [x, w, b] = [operand(shape, 1), operand([dim], 2), operand([dim], 3)];
      const y = layerNorm(upload(device.gpu, x), {
        weight: upload(device.gpu, w),
        bias: upload(device.gpu, b),
      });
      const expected = layerNormReference({ dim, eps: 1e-5 }, x.data, w.data, b.data);
      expect(relativeError(await y.read(), expected), String(shape)).toBeLessThan(2e-6);
    }
  });

  it("keeps its figures under a mean ten thousand times the spread", { timeout: 300_000 }, async () => {
    for (const dim of [7, 256, 1030]) {
      const x = rowsOf([3, dim], (i) => 10_000 + Math.sin(i * i));
      const y = layerNorm(upload(device.gpu, x));
      const expected = layerNormReference({ dim, eps: 1e-5 }, x.data);
      expect(relativeError(await y.read(), expected), String(dim)).toBeLessThan(3e-6);
    }
    await checkOp(
      device.gpu,
      (x, w) => layerNorm(x, { weight: w }),
      (x, w) => layerNormReference({ dim: 24, eps: 1e-5 }, x, w),
      [rowsOf([11, 24], (i) => Math.sin(i * i) - 3000), operand([24], 2)],
    );
  });

  it("keeps its figures where a row starts with an element far from all others", async () => {
    const x = rowsOf([9, 1024], (i) => (i % 1024 === 0 ? 5000 : Math.sin(i * i)));
    const y = layerNorm(upload(device.gpu, x));
    const expected = layerNormReference({ dim: 1024, eps: 1e-5 }, x.data);
    expect(relativeError(await y.read(), expected)).toBeLessThan(3e-6);
  });

  it("does not see an offset or a factor of its input", async () => {
    const x = operand([5, 24], 9);
    const moved = { shape: x.shape, data: x.data.map((v) => Math.fround(4 * v + 2)) };
    const [a, b] = [
      layerNorm(upload(device.gpu, x), { eps: 0 }),
      layerNorm(upload(device.gpu, moved), { eps: 0 }),
    ];
    expect(relativeError(await b.read(), await a.read())).toBeLessThan(1e-5);
  });

  it("takes f16 with statistics in f32", async ({ skip }) => {
    const { gpu } = device;
    if (!gpu.features.f16) skip("the adapter has no shader-f16");
    const x = rowsOf([4, 40], (i) => Math.sin(i) * 8);
    const y = layerNorm(gpu.tensor(x.data, x.shape, "f16"));
    expect(y.dtype).toBe("f16");
    expect(relativeError(await y.read(), layerNormReference({ dim: 40, eps: 1e-5 }, x.data))).toBeLessThan(
      2e-3,
    );
  });
});

eachForm("LayerNorm", (device) => {
  it("has a weight of ones and, unless told otherwise, a bias of zeros", async () => {
    const { gpu } = device;
    expect(Object.keys(LayerNorm.init(gpu, { dim: 4 }).parameters())).toEqual(["weight", "bias"]);
    const plain = LayerNorm.init(gpu, { dim: 4, bias: false });
    expect(Object.keys(plain.parameters())).toEqual(["weight"]);
    expect([...(await plain.parameters()["weight"]!.read())]).toEqual([1, 1, 1, 1]);
    const x = upload(gpu, operand([3, 4], 1));
    expect(await new LayerNorm({ dim: 4, bias: false }, plain.parameters()).forward(x).read()).toEqual(
      await plain.forward(x).read(),
    );
  });

  it("refuses what does not fit, by name", () => {
    expect(() => new LayerNorm({ dim: 4, epsilon: 1 } as never, {})).toThrow(/unknown key "epsilon"/);
    const { gpu } = device;
    const x = gpu.zeros([2, 6]);
    expect(() => layerNorm(x, { weight: gpu.zeros([7]) })).toThrow(/layerNorm: weight has shape \[7\]/);
    expect(() => layerNorm(x, { bias: gpu.zeros([1]) })).toThrow(ShapeError);
    expect(() => layerNorm(gpu.zeros([2], "u32"))).toThrow(DTypeError);
    expect(() => layerNorm(x, { epsilon: 1 } as never)).toThrow(/unknown key "epsilon"/);
    expect(() => LayerNorm.init(gpu, { dim: 2.5 })).toThrow(/dim is 2.5/);
  });
});
