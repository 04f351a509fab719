import { describe, expect, it } from "vitest";
import { ShapeError } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { LearnedAbsolute, learnedAbsolute } from "./learned_absolute.js";

describe("learnedAbsolute", () => {
  const device = useGpu();

  it("adds the row of each position; repeated ids add up in the table's gradient", async () => {
    for (const [shape, options, at] of [
      [[2, 3, 4], {}, (_: number, s: number) => s],
      [[1, 3, 5], { positionOffset: 2 }, (_: number, s: number) => s + 2],
      [[2, 3, 1], { positions: [4, 4, 0] }, (_: number, s: number) => [4, 4, 0][s]!],
      [
        [2, 3, 4],
        { positions: [0, 1, 1, 1, 4, 0] },
        (b: number, s: number) => [0, 1, 1, 1, 4, 0][3 * b + s]!,
      ],
    ] as const) {
      const [, seq, dim] = shape;
      await checkOp(
        device.gpu,
        (x, weight) => learnedAbsolute(x, { weight, ...options }),
        (x, table) =>
          x.map(
            (v, n) =>
              v + table[at(Math.floor(n / (seq * dim)), Math.floor(n / dim) % seq) * dim + (n % dim)]!,
          ),
        [operand(shape, 1), operand([5, dim], 2)],
      );
    }
  });

  it("at an offset gives the rows of the whole sequence", async () => {
    const { gpu } = device;
    const embedding = LearnedAbsolute.init(gpu, { dim: 3, maxPositions: 7 });
    const whole = await embedding.forward(gpu.zeros([1, 7, 3])).read();
    const one = await embedding.forward(gpu.zeros([1, 1, 3]), { positionOffset: 6 }).read();
    expect([...one]).toEqual([...whole.slice(18)]);
    const positionIds = gpu.tensor([6], [1, 1], "i32");
    expect([...(await embedding.forward(gpu.zeros([1, 1, 3]), { positionIds, seqLen: 7 }).read())]).toEqual([
      ...one,
    ]);
    expect(() => embedding.forward(gpu.zeros([1, 1, 3]), { positionIds, seqLen: 8 })).toThrow(
      /is 8; it must be an integer in 1..7/,
    );
    expect(() => embedding.forward(gpu.zeros([1, 2, 3]), { positionIds, seqLen: 7 })).toThrow(
      /positionIds has shape/,
    );
    expect(() => embedding.forward(gpu.zeros([1, 1, 3]), { seqLen: 7 })).toThrow(/seqLen is 7/);
    expect(() => embedding.forward(gpu.zeros([1, 1, 3]), { positionIds, seqLen: 7, positions: [6] })).toThrow(
      /positions and positionIds are given/,
    );
    const again = new LearnedAbsolute({ dim: 3, maxPositions: 7 }, embedding.parameters());
    expect(await again.forward(gpu.zeros([1, 7, 3])).read()).toEqual(whole);
  });

  it("refuses a position past the table, and what does not fit", () => {
    const { gpu } = device;
    const [x, weight] = [gpu.zeros([1, 3, 4]), gpu.zeros([5, 4])];
    expect(() => learnedAbsolute(x, { weight, positionOffset: 3 })).toThrow(
      /positions is 5; it must be an integer in 0\.\.4/,
    );
    expect(() => learnedAbsolute(x, { weight, positions: [0, 1, -1] })).toThrow(/positions is -1/);
    expect(() => learnedAbsolute(x, { weight: gpu.zeros([5, 3]) })).toThrow(
      /weight has shape \[5, 3\]; it must be \[maxPositions, 4\]/,
    );
    expect(() => learnedAbsolute(gpu.zeros([3, 4]), { weight })).toThrow(ShapeError);
    expect(() => LearnedAbsolute.init(gpu, { dim: 3, maxPositions: 0 })).toThrow(/maxPositions is 0/);
    expect(() => new LearnedAbsolute({ dim: 3, maxPositions: 5 }, {})).toThrow(/parameter weight is missing/);
  });
});
