import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  argsort,
  embedding,
  gather,
  groupBy,
  scatterAdd,
  sort,
  takeAlongLast,
  topk,
  vjp,
  DTypeError,
  ShapeError,
} from "../index.js";
import { checkOp, numbers, operand, useGpu } from "../test-support.js";

const device = useGpu();

describe("groupBy", () => {
  it.each([1, 3, 64, 65, 1000])(
    "groups positions by %i keys, stably, and leaves strangers out",
    async (buckets) => {
      const { gpu } = device;
      const n = 777;
      const ids = Array.from(numbers(n, buckets), (x) => Math.floor((x + 1.1) * 0.5 * buckets) - 1);
      const { offsets, order } = groupBy(gpu.tensor(ids, [n], "i32"), buckets);
      const starts = await offsets.read();
      const positions = await order.read();
      const expected = Array.from({ length: buckets }, (_, b) =>
        ids.flatMap((id, i) => (id === b ? [i] : [])),
      );
      let at = 0;
      expected.forEach((list, b) => {
        expect(starts[b]).toBe(at);
        expect([...positions.slice(at, at + list.length)]).toEqual(list);
        at += list.length;
      });
      expect(starts[buckets]).toBe(at);
    },
  );
});

describe("gather", () => {
  it("takes rows of any axis, with gradients summed over repeats", async () => {
    const { gpu } = device;
    for (const inner of [4, 3])
      for (const axis of [0, 1, 2]) {
        const shape = [3, 5, inner];
        const indices = axis === 1 ? [4, 0, 4, 2, 4, 4] : [2, 0, 2, 2, 1, 0];
        const ids = gpu.tensor(indices, [2, 3], "i32");
        const outer = shape.slice(0, axis).reduce((a, b) => a * b, 1);
        const width = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
        await checkOp(
          gpu,
          (x) => gather(x, ids, axis),
          (x) =>
            Array.from({ length: outer * 6 * width }, (_, i) => {
              const n = Math.floor(i / width);
              return x[(Math.floor(n / 6) * shape[axis]! + indices[n % 6]!) * width + (i % width)]!;
            }),
          [operand(shape, axis)],
        );
      }
  });

  it("gives NaN for an index outside, never other memory, and no gradient", async () => {
    const { gpu } = device;
    const table = gpu.tensor([1, 2, 3, 4], [2, 2]);
    const ids = gpu.tensor([1, -1, 2, 2147483647, -2147483648], [5], "i32");
    const run = vjp(() => [embedding(table, ids)], [table]);
    expect([...(await run.outputs[0]!.read())]).toEqual([3, 4, ...Array<number>(8).fill(NaN)]);
    const [grad] = run.pullback([gpu.full([5, 2], 1)]);
    expect([...(await grad!.read())]).toEqual([0, 0, 1, 1]);
  });

  it("the gradient of a large vocabulary is the same on every run", async () => {
    const { gpu } = device;
    const n = 3000;
    const ids = gpu.tensor(
      Array.from(numbers(n, 1), (x) => Math.floor(Math.abs(x) ** 4 * 500)),
      [n],
      "i32",
    );
    const updates = gpu.tensor(numbers(n * 3, 2), [n, 3]);
    const [a, b] = [await scatterAdd(updates, ids, 500).read(), await scatterAdd(updates, ids, 500).read()];
    expect(a).toEqual(b);
  });

  it("scatterAdd sums updates and gathers its gradient", async () => {
    const { gpu } = device;
    const ids = gpu.tensor([1, 0, 1, 7], [4], "i32");
    await checkOp(
      gpu,
      (x) => scatterAdd(x, ids, 3),
      (x) => [x[2]!, x[3]!, x[0]! + x[4]!, x[1]! + x[5]!, 0, 0],
      [operand([4, 2], 1)],
    );
  });

  it("takeAlongLast takes elements of each row, with gradients", async () => {
    const { gpu } = device;
    const ids = gpu.tensor([0, 3, 3, 1, 2, 2], [2, 3], "i32");
    await checkOp(
      gpu,
      (x) => takeAlongLast(x, ids),
      (x) => [x[0]!, x[3]!, x[3]!, x[5]!, x[6]!, x[6]!],
      [operand([2, 4], 1)],
    );
  });

  it("refuses float ids and wrong ranks", () => {
    const { gpu } = device;
    expect(() => embedding(gpu.zeros([2, 2]), gpu.zeros([2]))).toThrow(DTypeError);
    expect(() => embedding(gpu.zeros([2]), gpu.zeros([2], "i32"))).toThrow(ShapeError);
    expect(() => scatterAdd(gpu.zeros([2, 3]), gpu.zeros([3], "i32"), 4)).toThrow(/first axes/);
  });
});

describe("sort and topk", () => {
  const reference = (row: number[], descending: boolean): number[] =>
    row.map((_, i) => i).sort((a, b) => (descending ? row[b]! - row[a]! : row[a]! - row[b]!) || a - b);

  it("sort any rows as a stable sort does", async () => {
    const { gpu } = device;
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 3 }),
        fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(1024, 1025, 3000)),
        fc.integer({ min: 1, max: 5 }),
        fc.boolean(),
        async (rows, width, levels, descending) => {
          const data = Array.from(numbers(rows * width, width), (x) => Math.round(x * 10 ** levels));
          const { values, indices } = gpu.scope(() => sort(gpu.tensor(data, [rows, width]), { descending }));
          const expected = Array.from({ length: rows }, (_, r) =>
            reference(data.slice(r * width, (r + 1) * width), descending),
          );
          expect([...(await indices.read())]).toEqual(expected.flat());
          expect([...(await values.read())]).toEqual(
            expected.flatMap((order, r) => order.map((i) => Math.fround(data[r * width + i]!))),
          );
          values.dispose();
          indices.dispose();
        },
      ),
      { numRuns: 12, seed: 7 },
    );
  });

  it.each([
    [5, 1],
    [8, 2],
    [64, 16],
    [64, 17],
    [1500, 3],
  ])("topk of rows of %i with k = %i, lower positions first", async (width, k) => {
    const { gpu } = device;
    const data = Array.from(numbers(3 * width, k), (x) => Math.round(x * 4));
    const { values, indices } = topk(gpu.tensor(data, [3, width]), k);
    const expected = [0, 1, 2].flatMap((r) =>
      reference(data.slice(r * width, (r + 1) * width), true).slice(0, k),
    );
    expect([...(await indices.read())]).toEqual(expected);
    expect(values.shape).toEqual([3, k]);
  });

  it("have the gradient of a permutation", async () => {
    const { gpu } = device;
    const order = (x: Float64Array): number[] => reference([...x], true);
    await checkOp(
      gpu,
      (x) => sort(x, { descending: true }).values,
      (x) => order(x).map((i) => x[i]!),
      [operand([9], 1)],
      { h: 1e-6 },
    );
    await checkOp(
      gpu,
      (x) => topk(x, 3).values,
      (x) =>
        order(x)
          .slice(0, 3)
          .map((i) => x[i]!),
      [operand([9], 1)],
      { h: 1e-6 },
    );
  });

  it("put infinities at the ends and refuse k above the width", async () => {
    const { gpu } = device;
    const x = gpu.tensor([0, Infinity, -Infinity, -0, 1], [5]);
    expect([...(await argsort(x).read())]).toEqual([2, 0, 3, 4, 1]);
    expect(() => topk(x, 6)).toThrow(/k is 6; axis 0 of \[5\] has 5/);
  });
});
