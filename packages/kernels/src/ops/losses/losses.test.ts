import { describe, expect, it } from "vitest";
import {
  crossEntropy,
  linearCrossEntropy,
  matmul,
  vjp,
  ConfigError,
  DTypeError,
  ShapeError,
  type CrossEntropyOptions,
} from "../../index.js";
import { checkOp, numbers, operand, relativeError, useGpu } from "../../test-support.js";

const device = useGpu();

function reference(
  width: number,
  targets: readonly number[],
  o: CrossEntropyOptions = {},
): (x: Float64Array) => number[] {
  const { ignoreIndex = -100, reduction = "mean", labelSmoothing = 0, zLoss = 0 } = o;
  return (x) => {
    const rows = targets.map((t, r) => {
      if (t === ignoreIndex) return 0;
      const row = x.slice(r * width, (r + 1) * width);
      const top = Math.max(...row);
      const lse = top + Math.log(row.reduce((s, v) => s + Math.exp(v - top), 0));
      const mean = row.reduce((s, v) => s + v, 0) / width;
      return lse - (1 - labelSmoothing) * row[t]! - labelSmoothing * mean + zLoss * lse ** 2;
    });
    if (reduction === "none") return rows;
    const total = rows.reduce((a, b) => a + b, 0);
    return [
      reduction === "sum" ? total : total / Math.max(1, targets.filter((t) => t !== ignoreIndex).length),
    ];
  };
}

const cases: CrossEntropyOptions[] = [
  {},
  { reduction: "sum" },
  { reduction: "none", zLoss: 0.1 },
  { labelSmoothing: 0.2, zLoss: 1e-2 },
  { ignoreIndex: 3 },
];

describe("crossEntropy", () => {
  it.each(cases)("%j: value and gradient", async (options) => {
    for (const width of [8, 11]) {
      const targets = [0, 3, width - 1, 3, 5];
      const ids = device.gpu.tensor(targets, [5], "i32");
      await checkOp(device.gpu, (x) => crossEntropy(x, ids, options), reference(width, targets, options), [
        operand([5, width], width),
      ]);
    }
  });

  it("is 0 with a zero gradient where nothing counts, and NaN for a target outside", async () => {
    const { gpu } = device;
    const x = gpu.tensor(numbers(6, 1), [2, 3]);
    const none = gpu.tensor([-100, -100], [2], "i32");
    const run = vjp(() => [crossEntropy(x, none)], [x]);
    expect(await run.outputs[0]!.item()).toBe(0);
    expect([...(await run.pullback([gpu.full([], 1)])[0]!.read())]).toEqual([0, 0, 0, 0, 0, 0]);
    expect(await crossEntropy(x, gpu.tensor([0, 3], [2], "i32")).item()).toBeNaN();
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    expect(() => crossEntropy(gpu.zeros([2, 3]), gpu.zeros([3], "i32"))).toThrow(
      /targets have shape \[3\]; it must be \[2\]/,
    );
    expect(() => crossEntropy(gpu.zeros([2, 3]), gpu.zeros([2]))).toThrow(DTypeError);
    expect(() => crossEntropy(gpu.zeros([2, 3]), gpu.zeros([2], "i32"), { labelSmoothing: 2 })).toThrow(
      ConfigError,
    );
    expect(() => crossEntropy(gpu.zeros([]), gpu.zeros([], "i32"))).toThrow(ShapeError);
  });
});

describe("linearCrossEntropy", () => {
  it.each([{}, { reduction: "sum" }, { labelSmoothing: 0.1, zLoss: 1e-2, ignoreIndex: 3 }] as const)(
    "%j: equals crossEntropy of the logits, in chunks",
    async (options) => {
      const { gpu } = device;
      const [rows, dim, vocab] = [23, 6, 17];
      const x = gpu.tensor(numbers(rows * dim, 1), [rows, dim]);
      const w = gpu.tensor(numbers(vocab * dim, 2), [vocab, dim]);
      const t = gpu.tensor(
        Array.from(numbers(rows, 3), (v) => Math.floor((v + 1) * 0.499 * vocab)),
        [rows],
        "i32",
      );
      const g = gpu.full([], 0.7);
      const whole = vjp(() => [crossEntropy(matmul(x, w, { transposeB: true }), t, options)], [x, w]);
      for (const chunkBytes of [1, 8 * 17 * 4, 1e9]) {
        const run = vjp(() => [linearCrossEntropy(x, w, t, { ...options, chunkBytes })], [x, w]);
        expect(Math.abs((await run.outputs[0]!.item()) - (await whole.outputs[0]!.item()))).toBeLessThan(
          1e-4,
        );
        const grads = run.pullback([g]);
        const expected = vjp(
          () => [crossEntropy(matmul(x, w, { transposeB: true }), t, options)],
          [x, w],
        ).pullback([g]);
        for (const i of [0, 1])
          expect(relativeError(await grads[i]!.read(), await expected[i]!.read())).toBeLessThan(1e-5);
      }
      const value = await gpu.scope(() => linearCrossEntropy(x, w, t, options)).item();
      expect(Math.abs(value - (await whole.outputs[0]!.item()))).toBeLessThan(1e-4);
      const [dw] = vjp(() => [linearCrossEntropy(x, w, t, options)], [w]).pullback([g]);
      expect(dw!.shape).toEqual([vocab, dim]);
    },
  );

  it("never holds the logits of the whole batch", async () => {
    const { gpu } = device;
    const [rows, dim, vocab] = [512, 8, 4096];
    const x = gpu.zeros([rows, dim]);
    const w = gpu.zeros([vocab, dim]);
    const t = gpu.zeros([rows], "i32");
    await gpu.sync();
    const before = gpu.memory().liveBytes;
    const run = vjp(() => [linearCrossEntropy(x, w, t, { chunkBytes: 2 ** 18 })], [x, w]);
    expect(gpu.memory().peakBytes - before).toBeLessThan((rows * vocab * 4) / 4);
    run.dispose();
  });
});
