import { describe, expect, it } from "vitest";
import { checkOp, numbers, operand, relativeError, useGpu } from "../../test-support.js";
import { adaptLinear, dequantize, isAdapted, linear, quantize, ShapeError } from "../../index.js";

const device = useGpu();

/** x (W + sum of scale b a)^T + bias in float64. */
function wanted(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  changes: readonly { a: ArrayLike<number>; b: ArrayLike<number>; scale: number }[],
  [M, N, K]: readonly [number, number, number],
): number[] {
  const whole = Array.from({ length: N * K }, (_, i) => {
    const [n, k] = [Math.floor(i / K), i % K];
    return changes.reduce((sum, { a, b, scale }) => {
      const rank = a.length / K;
      let dot = 0;
      for (let r = 0; r < rank; r++) dot += b[n * rank + r]! * a[r * K + k]!;
      return sum + scale * dot;
    }, w[i]!);
  });
  return Array.from({ length: M * N }, (_, i) => {
    const [m, n] = [Math.floor(i / N), i % N];
    let sum = 0;
    for (let k = 0; k < K; k++) sum += x[m * K + k]! * whole[n * K + k]!;
    return sum;
  });
}

describe("adaptLinear", () => {
  it("adds changes of low rank to plain and quantised weights, until they are taken off", async () => {
    const { gpu } = device;
    const sizes = [3, 5, 64] as const;
    const [M, N, K] = sizes;
    const [x, plain] = [numbers(M * K, 1), numbers(N * K, 2)];
    const blocks = quantize(plain, "q8_0");
    const first = { a: numbers(2 * K, 3), b: numbers(N * 2, 4), scale: 0.5 };
    const second = { a: numbers(4 * K, 5), b: numbers(N * 4, 6), scale: -2 };
    for (const [w, values] of [
      [gpu.tensor(plain, [N, K]), plain],
      [gpu.fromBytes(blocks, [N, K], "q8_0"), dequantize(blocks, "q8_0")],
    ] as const) {
      const input = gpu.tensor(x, [M, K]);
      const read = async (): Promise<number[]> => Array.from(await gpu.scope(() => linear(input, w)).read());
      const put = ({ a, b, scale }: typeof first): (() => void) =>
        adaptLinear(w, { a: gpu.tensor(a, [a.length / K, K]), b: gpu.tensor(b, [N, a.length / K]), scale });
      const without = await read();
      const [offFirst, offSecond] = [put(first), put(second)];
      expect(isAdapted(w)).toBe(true);
      expect(relativeError(await read(), wanted(x, values, [first, second], sizes))).toBeLessThan(1e-5);
      const residual = numbers(M * N, 7);
      const cut = gpu.scope(() =>
        linear(input, w, undefined, { activation: "relu", residual: gpu.tensor(residual, [M, N]), alpha: 2 }),
      );
      const sums = wanted(x, values, [first, second], sizes).map((z, i) => Math.max(0, 2 * z) + residual[i]!);
      expect(relativeError(await cut.read(), sums)).toBeLessThan(1e-5);
      offFirst();
      expect(relativeError(await read(), wanted(x, values, [second], sizes))).toBeLessThan(1e-5);
      offSecond();
      expect(isAdapted(w)).toBe(false);
      expect(await read()).toEqual(without);
    }
  });

  it("is differentiable in x and in both factors", async () => {
    await checkOp(
      device.gpu,
      (x, w, a, b) => {
        const off = adaptLinear(w, { a, b, scale: 0.7 });
        try {
          return linear(x, w);
        } finally {
          off();
        }
      },
      (x, w, a, b) => wanted(x, w, [{ a, b, scale: 0.7 }], [2, 4, 3]),
      [operand([2, 3], 1), operand([4, 3], 2), operand([2, 3], 3), operand([4, 2], 4)],
    );
  });

  it("refuses factors of other shapes", () => {
    const { gpu } = device;
    const w = gpu.zeros([4, 3]);
    const give = (a: number[], b: number[]) => () => adaptLinear(w, { a: gpu.zeros(a), b: gpu.zeros(b) });
    expect(give([2, 4], [4, 2])).toThrow(/a has shape \[2, 4\]; it must be \[rank, 3\]/);
    expect(give([2, 3], [4, 1])).toThrow(ShapeError);
    expect(isAdapted(w)).toBe(false);
  });
});
