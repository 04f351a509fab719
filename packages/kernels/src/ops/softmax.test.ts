import { describe, expect, it } from "vitest";
import { logSoftmax, logSumExp, softmax, vjp, type Tensor } from "../index.js";
import { checkOp, operand, relativeError, useGpu } from "../test-support.js";

const device = useGpu();

describe("softmax, its logarithm, and log-sum-exp", () => {
  it("keep their digits at large logits", async () => {
    const { gpu } = device;
    const x = gpu.tensor([10000, 10001, 10002, 10003], [4]);
    const expected = [-3.4401896985611953, -2.4401896985611953, -1.4401896985611953, -0.44018969856119533];
    for (const axis of [0, -1])
      expect(relativeError(await logSoftmax(x, { axis }).read(), expected)).toBeLessThan(1e-6);
    const odd = gpu.tensor([-80000, -80001, -80004], [3]);
    const shifted = [0, -1, -4].map((v) => v - Math.log(1 + Math.exp(-1) + Math.exp(-4)));
    expect(relativeError(await logSoftmax(odd).read(), shifted)).toBeLessThan(1e-6);
  });

  it("log-sum-exp is infinite where an element is, and -Infinity where all are", async () => {
    const { gpu } = device;
    const x = gpu.tensor(
      [
        Infinity,
        1,
        0,
        2,
        -Infinity,
        -Infinity,
        -Infinity,
        -Infinity,
        -Infinity,
        1,
        NaN,
        0,
        1e38,
        -Infinity,
        3e38,
        3,
      ],
      [4, 4],
    );
    const { outputs, pullback } = vjp(() => [logSumExp(x)], [x]);
    const out = [...(await outputs[0]!.read())];
    expect(out.slice(0, 3)).toEqual([Infinity, -Infinity, NaN]);
    expect(out[3]! / 3e38).toBeCloseTo(1, 6);
    const [grad] = pullback([gpu.tensor([1, 1, 0, 1], [4])]);
    const g = [...(await grad!.read())];
    expect([...g.slice(0, 8), ...g.slice(12)]).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    // Rows of odd widths are read one element at a time.
    const odd = gpu.tensor([Infinity, 1, -Infinity], [3]);
    expect(await logSumExp(odd).item()).toBe(Infinity);
  });

  it("take any axis", async () => {
    const { gpu } = device;
    const along = (f: (column: number[]) => number[], keep: boolean) => (t: Float64Array) => {
      const out: number[] = [];
      for (let o = 0; o < 2; o++)
        for (let i = 0; i < 5; i++) {
          const column = f(Array.from({ length: 3 }, (_, j) => t[(o * 3 + j) * 5 + i]!));
          column.forEach((v, j) => (out[keep ? (o * 3 + j) * 5 + i : o * 5 + i] = v));
        }
      return out;
    };
    const lse = (c: number[]): number => Math.log(c.reduce((a, v) => a + Math.exp(v), 0));
    const cases: [(x: Tensor) => Tensor, (t: Float64Array) => number[]][] = [
      [(x) => softmax(x, { axis: 1 }), along((c) => c.map((v) => Math.exp(v - lse(c))), true)],
      [(x) => logSoftmax(x, { axis: -2 }), along((c) => c.map((v) => v - lse(c)), true)],
      [(x) => logSumExp(x, { axis: 1 }), along((c) => [lse(c)], false)],
    ];
    for (const [op, reference] of cases) await checkOp(gpu, op, reference, [operand([2, 3, 5], 7)]);
    const x = gpu.zeros([2, 3, 5]);
    expect(logSumExp(x, { axis: 1, keepDims: true }).shape).toEqual([2, 1, 5]);
    expect(() => softmax(x, { axis: 3 })).toThrow(/axis is 3/);
  });
});
