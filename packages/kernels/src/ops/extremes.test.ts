import { describe, expect, it } from "vitest";
import { argmax, argmin, argsort, max, min, sort, topk } from "../index.js";
import { checkOp, operand, useGpu } from "../test-support.js";

const device = useGpu();
const list = async (t: { read: () => Promise<ArrayLike<number>> }): Promise<number[]> =>
  Array.from(await t.read());

describe("extremes, sort and top-k", () => {
  it("NaN spreads through max and min, and counts as the largest in sort and top-k", async () => {
    const { gpu } = device;
    // The second NaN has its sign bit set.
    const negative = new Float32Array(new Uint32Array([0xffc00000]).buffer)[0]!;
    for (const nan of [NaN, negative]) {
      const x = gpu.tensor([1, nan, 3, -0, 0, -Infinity], [6]);
      expect(await max(x).item()).toBeNaN();
      expect(await min(x).item()).toBeNaN();
      expect(await list(argmax(x))).toEqual([1]);
      expect(await list(argmin(x))).toEqual([1]);
      expect(await list(argsort(x))).toEqual([5, 3, 4, 0, 2, 1]);
      expect(await list(argsort(x, { descending: true }))).toEqual([1, 2, 0, 3, 4, 5]);
      expect(await list(topk(x, 2).indices)).toEqual([1, 2]);
      expect(await list(topk(x, 5, { largest: false }).indices)).toEqual([5, 3, 4, 0, 2]);
    }
    const rows = gpu.tensor([1, NaN, 5, 2, 3, 4], [2, 3]);
    expect(await list(max(rows, { axes: -1 }))).toEqual([NaN, 4]);
    expect(await list(max(rows, { axes: 0, keepDims: true }))).toEqual([2, NaN, 5]);
  });

  it("argmax and argmin take an axis, keep it, and choose the last of equal elements", async () => {
    const { gpu } = device;
    const x = gpu.tensor([2, 2, 1, 3, 10, 10, 1, 10], [2, 4]);
    expect(await list(argmax(x))).toEqual([3, 0]);
    expect(await list(argmax(x, 0))).toEqual([1, 1, 0, 1]);
    expect(await list(argmax(x, { ties: "last" }))).toEqual([3, 3]);
    expect(argmax(x, { axis: 0, keepDims: true }).shape).toEqual([1, 4]);
    expect(await list(argmin(x, { axis: -1 }))).toEqual([2, 2]);
    expect(await list(argmin(x, { axis: 0, ties: "last" }))).toEqual([0, 0, 1, 0]);
    expect(await list(argmin(gpu.tensor([-5, 3, -(2 ** 31)], [3], "i32")))).toEqual([2]);
    expect(await list(argmax(gpu.tensor([5, 2 ** 32 - 1, 3], [3], "u32")))).toEqual([1]);
  });

  it("sort and top-k work along any axis, on integers, and give the smallest", async () => {
    const { gpu } = device;
    const x = gpu.tensor([5, 1, 4, 2, 3, 6], [3, 2]);
    expect(await list(sort(x, { axis: 0 }).values)).toEqual([3, 1, 4, 2, 5, 6]);
    expect(await list(sort(x, { axis: 0 }).indices)).toEqual([2, 0, 1, 1, 0, 2]);
    const least = topk(x, 2, { axis: 0, largest: false });
    expect(least.values.shape).toEqual([2, 2]);
    expect(await list(least.values)).toEqual([3, 1, 4, 2]);
    expect(await list(topk(x, 1, { axis: -2 }).values)).toEqual([5, 6]);
    const big = gpu.tensor([2 ** 24 + 1, -7, 2 ** 24, 0], [4], "i32");
    expect(await list(sort(big).values)).toEqual([-7, 0, 2 ** 24, 2 ** 24 + 1]);
    expect(await list(topk(big, 2).indices)).toEqual([0, 2]);
    expect(await list(topk(gpu.tensor([1, 2 ** 32 - 1, 7], [3], "u32"), 1).indices)).toEqual([1]);
    // Wide rows go through a whole sort.
    const wide = Array.from({ length: 3000 }, (_, i) => (i * 7919) % 3000);
    const found = await list(topk(gpu.tensor(wide, [3000]), 20, { largest: false }).values);
    expect(found).toEqual(Array.from({ length: 20 }, (_, i) => i));
  });

  it("gradients along another axis", async () => {
    const { gpu } = device;
    const columns = (pick: (column: number[]) => number[]) => (t: Float64Array) => {
      const picked = Array.from({ length: 3 }, (_, c) =>
        pick(Array.from({ length: 4 }, (_, r) => t[3 * r + c]!)),
      );
      return picked[0]!.flatMap((_, i) => picked.map((column) => column[i]!));
    };
    const sorted = (column: number[]): number[] => column.sort((a, b) => a - b);
    await checkOp(gpu, (t) => sort(t, { axis: 0 }).values, columns(sorted), [operand([4, 3], 3)]);
    await checkOp(
      gpu,
      (t) => topk(t, 2, { axis: 0, largest: false }).values,
      columns((c) => sorted(c).slice(0, 2)),
      [operand([4, 3], 4)],
    );
  });
});
