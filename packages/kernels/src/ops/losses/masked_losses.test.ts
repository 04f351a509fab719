import { describe, expect, it } from "vitest";
import {
  crossEntropy,
  linearCrossEntropy,
  logSoftmax,
  negativeLogLikelihood,
  vjp,
  type Tensor,
} from "../../index.js";
import { checkOp, operand, relativeError, useGpu } from "../../test-support.js";

const device = useGpu();
const LEAST = -3.4028234e38;
const EXPECTED = 0.31326168751822286;

/** Rows of masked logits whose loss, at label 2, is that of [2, 3] at 3. */
const MASKED: Readonly<Record<string, number[]>> = {
  "one of -Infinity": [-Infinity, 2, 3],
  "two of the least float32": [LEAST, 2, 3, LEAST],
  "four of -1e38": [-1e38, 2, 3, -1e38, -1e38, -1e38],
  "fifty of -1e37": [-1e37, 2, 3, ...Array<number>(49).fill(-1e37)],
  "a width read by fours": [-Infinity, 2, 3, -Infinity, -Infinity, -Infinity, LEAST, LEAST],
};

describe("losses of masked and of large logits", () => {
  it.each(Object.entries(MASKED))("%s", async (_, row) => {
    const { gpu } = device;
    const n = row.length;
    const logits = gpu.tensor([...row, ...row.map(() => 0)], [2, n]);
    const targets = gpu.tensor([2, 0], [2], "i32");
    const { outputs, pullback } = vjp(() => [crossEntropy(logits, targets)], [logits]);
    expect(await outputs[0]!.item()).toBeCloseTo((EXPECTED + Math.log(n)) / 2, 6);
    const [grad] = pullback([gpu.tensor([2], [])]);
    const p = 1 / (1 + Math.exp(1));
    const expected = [
      0,
      p,
      -p,
      ...Array<number>(n - 3).fill(0),
      ...row.map((_, i) => 1 / n - (i === 0 ? 1 : 0)),
    ];
    expect(relativeError(await grad!.read(), expected)).toBeLessThan(1e-6);
    // The z loss and the row that does not count must not bring the NaN back.
    const ignored = gpu.tensor([2, -100], [2], "i32");
    const turned = gpu.tensor([...row.map(() => 0), ...row], [2, n]);
    const other = vjp(() => [crossEntropy(turned, ignored)], [turned]);
    expect(await other.outputs[0]!.item()).toBeCloseTo(Math.log(n), 5);
    const [second] = other.pullback([gpu.tensor([1], [])]);
    expect([...(await second!.read())].slice(n)).toEqual(row.map(() => 0));
    expect(await crossEntropy(logits, targets, { zLoss: 0.5 }).item()).toBeCloseTo(
      (EXPECTED + Math.log(n) + 0.5 * ((3 + EXPECTED) ** 2 + Math.log(n) ** 2)) / 2,
      4,
    );
    // With smoothing, a class of probability 0 costs what the formula says: much, or infinitely much.
    const smooth = await crossEntropy(logits, targets, { labelSmoothing: 0.1, reduction: "none" }).read();
    const mean = row.reduce((sum, x) => sum + (3 + EXPECTED - x) / n, 0);
    if (Number.isFinite(mean)) expect(smooth[0]! / (0.9 * EXPECTED + 0.1 * mean)).toBeCloseTo(1, 5);
    else expect(smooth[0]).toBe(Infinity);
  });

  it("of linearCrossEntropy", async () => {
    const { gpu } = device;
    const x = gpu.tensor([1, 0, 0, 1], [2, 2]);
    for (const mask of [LEAST, -1e38, -Infinity]) {
      // A weight of -Infinity gives NaN where x is 0, so that row alone is checked there.
      const rows = mask === -Infinity ? 1 : 2;
      const weight = gpu.tensor(
        [mask, 0, 2, 0, 3, 0, mask, 0].map((w, i) => (rows === 1 && i % 2 ? 1 : w)),
        [4, 2],
      );
      const part = gpu.tensor(rows === 1 ? [1, 1] : [1, 0, 0, 1], [rows, 2]);
      const targets = gpu.tensor([2, 0].slice(0, rows), [rows], "i32");
      const loss = linearCrossEntropy(rows === 1 ? part : x, weight, targets, { reduction: "sum" });
      expect(await loss.item()).toBeCloseTo(EXPECTED + (rows === 1 ? 0 : Math.log(4)), 5);
    }
  });

  it("a row whose logits are all masked and that is ignored has no part", async () => {
    const { gpu } = device;
    const logits = gpu.tensor([-Infinity, -Infinity, -Infinity, 1, 2, 3], [2, 3]);
    const targets = gpu.tensor([-100, 2], [2], "i32");
    const { outputs, pullback } = vjp(() => [crossEntropy(logits, targets)], [logits]);
    expect(await outputs[0]!.item()).toBeCloseTo(0.40760596, 6);
    expect([...(await pullback([gpu.tensor([1], [])])[0]!.read())].slice(0, 3)).toEqual([0, 0, 0]);
  });

  it("keep their digits at large logits", async () => {
    const { gpu } = device;
    const logits = gpu.tensor([10000, 10001, 10002, 10003], [1, 4]);
    const target = gpu.tensor([0], [1], "i32");
    const { outputs, pullback } = vjp(() => [crossEntropy(logits, target)], [logits]);
    expect(await outputs[0]!.item()).toBeCloseTo(3.4401897, 6);
    const p = [-3, -2, -1, 0].map((v) => Math.exp(v - 0.44018969856119533));
    const expected = p.map((v, i) => v - (i === 0 ? 1 : 0));
    expect(relativeError(await pullback([gpu.tensor([1], [])])[0]!.read(), expected)).toBeLessThan(1e-6);
    const weight = gpu.tensor([10000, 10001, 10002, 10003], [4, 1]);
    expect(await linearCrossEntropy(gpu.tensor([1], [1, 1]), weight, target).item()).toBeCloseTo(
      3.4401897,
      6,
    );
  });
});

describe("class weights, another axis of classes, and log probabilities", () => {
  const labels = [2, 0, -1, 1, 2, 2];
  const weights = [0.5, 2, 1.5];
  const reference =
    (reduction: string, weighted: boolean, softmax: boolean) =>
    (x: Float64Array): number[] => {
      // x [2, 3 classes, 3]
      const rows = labels.map((label, i) => {
        if (label < 0) return [0, 0] as const;
        const at = (c: number): number => x[Math.floor(i / 3) * 9 + c * 3 + (i % 3)]!;
        const z = softmax ? Math.log(Math.exp(at(0)) + Math.exp(at(1)) + Math.exp(at(2))) : 0;
        const w = weighted ? weights[label]! : 1;
        return [w * (z - at(label)), w] as const;
      });
      if (reduction === "none") return rows.map(([loss]) => loss);
      const total = rows.reduce((sum, [loss]) => sum + loss, 0);
      return [reduction === "sum" ? total : total / rows.reduce((sum, [, w]) => sum + w, 0)];
    };

  it.each(["mean", "sum", "none"] as const)("%s", async (reduction) => {
    const { gpu } = device;
    const targets = gpu.tensor(labels, [2, 3], "i32");
    const classes = gpu.tensor(weights, [3]);
    for (const [op, softmax] of [
      [crossEntropy, true],
      [negativeLogLikelihood, false],
    ] as const)
      for (const weighted of [false, true])
        await checkOp(
          gpu,
          (x) =>
            op(x, targets, {
              axis: 1,
              reduction,
              ignoreIndex: -1,
              ...(weighted ? { classWeights: classes } : {}),
            }),
          reference(reduction, weighted, softmax),
          [operand([2, 3, 3], 8)],
        );
  });

  it("agree with each other, and refuse what does not fit", async () => {
    const { gpu } = device;
    const x: Tensor = gpu.tensor([1, 2, 3, -1, 0, 5], [2, 3]);
    const targets = gpu.tensor([1, 2], [2], "i32");
    expect(await negativeLogLikelihood(logSoftmax(x), targets).item()).toBeCloseTo(
      await crossEntropy(x, targets).item(),
      6,
    );
    expect(await negativeLogLikelihood(x, gpu.tensor([1, 3], [2], "i32")).item()).toBeNaN();
    const classWeights = gpu.zeros([3]);
    expect(await crossEntropy(x, targets, { classWeights }).item()).toBe(0);
    expect(() => crossEntropy(x, targets, { classWeights, labelSmoothing: 0.1 })).toThrow(/it must be 0/);
    expect(() => crossEntropy(x, targets, { classWeights: gpu.zeros([4]) })).toThrow(
      /classWeights has shape/,
    );
    expect(() => negativeLogLikelihood(x, targets, { zLoss: 1 } as object)).toThrow(/unknown key "zLoss"/);
    expect(() => crossEntropy(x, targets, { chunkBytes: 1 } as object)).toThrow(/unknown key "chunkBytes"/);
  });
});
