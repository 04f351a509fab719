import { describe, expect, it } from "vitest";
import { ConfigError, DTypeError, ShapeError, valueAndGrad, sum } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { activation, ACTIVATION_KINDS } from "./activation.js";
import { activationReference, erf } from "./activation.reference.js";

const device = useGpu();

describe("activation", () => {
  it.each(ACTIVATION_KINDS)("%s: value and gradient", async (kind) => {
    const f = activationReference[kind];
    const x = { shape: [3, 21], data: operand([3, 21], 5).data.map((v) => 4 * v) };
    await checkOp(
      device.gpu,
      (t) => activation(t, kind),
      (v) => v.map((a) => f(a)),
      [x],
    );
  });

  it.each([[1], [7]])("swish: beta [%i] is trained", async (n) => {
    await checkOp(
      device.gpu,
      (x, beta) => activation(x, "swish", { beta }),
      (x, beta) => x.map((v, i) => activationReference.swish(v, beta[i % n])),
      [operand([5, 7], 1), operand([n], 2)],
    );
  });

  it("gelu is exact to 1e-6 on the whole line", async () => {
    const { gpu } = device;
    const x = Float32Array.from({ length: 4001 }, (_, i) => (i - 2000) / 250);
    const y = await activation(gpu.tensor(x, [x.length]), "gelu").read();
    let worst = 0;
    x.forEach((v, i) => {
      // x Phi(x) divided by x / 2: the error of erf itself.
      if (v !== 0) worst = Math.max(worst, Math.abs((2 * y[i]!) / v - 1 - erf(v / Math.SQRT2)));
    });
    expect(worst).toBeLessThan(1e-6);
  });

  it("geluTanh keeps its digits where it fades", async () => {
    const x = Float32Array.from({ length: 61 }, (_, i) => -5 + i / 30);
    const y = await activation(device.gpu.tensor(x, [x.length]), "geluTanh").read();
    x.forEach((v, i) => {
      // x / (1 + exp(-2 u)): the same function without the cancellation of 1 + tanh u.
      const u = Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3);
      const expected = v / (1 + Math.exp(-2 * u));
      expect(Math.abs(y[i]! / expected - 1)).toBeLessThan(2e-5);
    });
  });

  it.each(ACTIVATION_KINDS)("%s: neither overflow nor NaN from -100 to 100", async (kind) => {
    const { gpu } = device;
    const x = gpu.tensor([-100, -88, -50, -1e-6, 0, 1e-6, 50, 88, 100], [9]);
    const { value, grads } = valueAndGrad(() => sum(activation(x, kind)), { x });
    expect(Number.isFinite(await value.item())).toBe(true);
    expect(Array.from(await grads.x.read()).every(Number.isFinite)).toBe(true);
    expect((await activation(x, kind).read())[4]).toBeCloseTo(activationReference[kind](0), 6);
  });

  it("relu has slope 0 at 0", async () => {
    const x = device.gpu.tensor([0, -0], [2]);
    for (const kind of ["relu", "squaredRelu"] as const) {
      const { grads } = valueAndGrad(() => sum(activation(x, kind)), { x });
      expect(Array.from(await grads.x.read())).toEqual([0, 0]);
    }
  });

  it("refuses what it cannot do", () => {
    const { gpu } = device;
    const x = gpu.zeros([2, 3]);
    expect(() => activation(x, "gelo" as never)).toThrow(/kind is "gelo"; .*did you mean "gelu"/);
    expect(() => activation(x, "relu", { beta: 2 })).toThrow(ConfigError);
    expect(() => activation(x, "swish", { beta: gpu.zeros([2]) })).toThrow(ShapeError);
    expect(() => activation(gpu.zeros([2], "i32"), "relu")).toThrow(DTypeError);
  });
});
