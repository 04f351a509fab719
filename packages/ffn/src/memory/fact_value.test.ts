import { describe, expect, it } from "vitest";
import { matmul, mean, square, sub, sum, type Tensor } from "@x/kernels";
import { operand, relativeError, useGpu } from "@x/testing";
import { factValue } from "./fact_value.js";

const device = useGpu();
const D = 6;

describe("factValue", () => {
  const start = (): Tensor => device.gpu.tensor(operand([D], 1).data, [D]);
  /** Least squares: |A delta - b|^2 / rows, whose minimum is 0. */
  function problem(): { loss: (delta: Tensor) => Tensor; wanted: Float64Array } {
    const { gpu } = device;
    const wanted = operand([D], 3).data;
    const a = gpu.tensor(operand([12, D], 2).data, [12, D]);
    const b = matmul(a, gpu.tensor(wanted, [D, 1]));
    return { loss: (delta) => mean(square(sub(matmul(a, delta.reshape([D, 1])), b))), wanted };
  }

  it("finds the change at which the caller's loss is least", async () => {
    const { loss, wanted } = problem();
    const options = { steps: 300, learningRate: 0.05, weightDecay: 0, enough: 1e-10 };
    const { value, delta, losses } = await factValue(start(), loss, options);
    const found = await delta.read();
    expect(relativeError(found, wanted)).toBeLessThan(1e-3);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! * 1e-6);
    const sum_ = operand([D], 1).data.map((v, i) => v + found[i]!);
    expect(relativeError(await value.read(), sum_)).toBeLessThan(1e-6);
  });

  it("stops once the loss is low enough, and holds delta within the clamp", async () => {
    const { loss } = problem();
    const quick = await factValue(start(), loss, { steps: 100, learningRate: 0.05, enough: 0.1 });
    expect(quick.losses.length).toBeLessThan(100);
    expect(quick.losses.at(-1)).toBeLessThan(0.1);
    expect(Math.min(...quick.losses.slice(0, -1))).toBeGreaterThanOrEqual(0.1);
    const held = await factValue(start(), loss, { steps: 50, clamp: 0.25 });
    const norm = (t: ArrayLike<number>): number => Math.hypot(...Array.from(t));
    expect(norm(await held.delta.read())).toBeLessThanOrEqual(0.25 * norm(operand([D], 1).data) * (1 + 1e-5));
  });

  it("weight decay keeps delta short", async () => {
    const { loss } = problem();
    const options = { steps: 200, learningRate: 0.05, enough: 0 };
    const sizes: number[] = [];
    for (const weightDecay of [0, 5]) {
      const { delta } = await factValue(start(), loss, { ...options, weightDecay });
      sizes.push(Math.hypot(...Array.from(await delta.read())));
    }
    expect(sizes[1]!).toBeLessThan(0.7 * sizes[0]!);
  });

  it("leaves no memory behind, also when the caller's loss throws; refuses other options", async () => {
    const { gpu } = device;
    const from = start();
    const before = gpu.memory().liveBytes;
    await expect(
      factValue(from, () => {
        throw new Error("no model");
      }),
    ).rejects.toThrow("no model");
    expect(gpu.memory().liveBytes).toBe(before);
    const { value, delta } = await factValue(from, (d) => sum(square(d)), { steps: 2 });
    for (const t of [value, delta]) t.dispose();
    expect(gpu.memory().liveBytes).toBe(before);
    await expect(factValue(from, sum, { steps: 0 })).rejects.toThrow(/steps is 0/);
    await expect(factValue(from, sum, { step: 3 } as never)).rejects.toThrow(/did you mean "steps"/);
  });
});
