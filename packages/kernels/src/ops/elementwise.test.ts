import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  add,
  cast,
  div,
  elementwise,
  e,
  mul,
  openDevice,
  ShapeError,
  vjp,
  where,
  type Gpu,
  type Tensor,
} from "../index.js";
import { checkOp, openSmallDevice, operand } from "../test-support.js";

let gpu: Gpu;
beforeAll(async () => {
  gpu = await openDevice({ fillWithNaN: true });
});
afterAll(() => {
  gpu.destroy();
});

const numbers = (n: number, seed: number): number[] =>
  Array.from({ length: n }, (_, i) => Math.fround(Math.sin(i * 12.9898 + seed) * 2));
const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Offset in an operand of `shape` for the flat index of an output of `out`. */
function offset(flat: number, shape: readonly number[], out: readonly number[]): number {
  let at = 0;
  let stride = 1;
  for (let axis = out.length - 1; axis >= 0; axis--) {
    const n = shape[axis - out.length + shape.length] ?? 1;
    const index = flat % (out[axis] ?? 1);
    flat = Math.floor(flat / (out[axis] ?? 1));
    if (n !== 1) at += index * stride;
    stride *= n;
  }
  return at;
}

const shapePairs = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.constantFrom("both", "left", "right")), {
    minLength: 1,
    maxLength: 5,
  })
  .chain((dims) =>
    fc.tuple(fc.constant(dims), fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 2 })),
  )
  .map(([dims, dropLeft, dropRight]) => {
    const left = dims.map(([n, who]) => (who === "right" ? 1 : n));
    const right = dims.map(([n, who]) => (who === "left" ? 1 : n));
    // Leading ones may be left out.
    while (dropLeft-- > 0 && left[0] === 1) left.shift();
    while (dropRight-- > 0 && right[0] === 1) right.shift();
    return { left, right, out: dims.map(([n]) => n) };
  });

describe("elementwise", () => {
  it("broadcasts as numpy does, forward and backward", { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(shapePairs, async ({ left, right, out: full }) => {
        const rank = Math.max(left.length, right.length);
        const out = full.slice(full.length - rank);
        const a = gpu.tensor(numbers(size(left), 1), left);
        const b = gpu.tensor(numbers(size(right), 2), right);
        const run = vjp(() => [mul(a, b)], [a, b]);
        const cotangent = numbers(size(out), 3);
        const [da, db] = run.pullback([gpu.tensor(cotangent, out)]);
        const y = run.outputs[0] as Tensor;
        expect(y.shape).toEqual(out);
        const [av, bv] = [numbers(size(left), 1), numbers(size(right), 2)];
        const [wantA, wantB] = [new Float64Array(size(left)), new Float64Array(size(right))];
        const values = await y.read();
        for (let i = 0; i < size(out); i++) {
          const [ia, ib] = [offset(i, left, out), offset(i, right, out)];
          const [x, z, g] = [av[ia] ?? NaN, bv[ib] ?? NaN, cotangent[i] ?? NaN];
          expect(Math.abs((values[i] ?? NaN) - x * z)).toBeLessThan(1e-5);
          wantA[ia] = (wantA[ia] ?? 0) + g * z;
          wantB[ib] = (wantB[ib] ?? 0) + g * x;
        }
        expect(da?.shape).toEqual(left);
        expect(db?.shape).toEqual(right);
        const [gotA, gotB] = [await da?.read(), await db?.read()];
        wantA.forEach((want, i) => {
          expect(Math.abs((gotA?.[i] ?? NaN) - want)).toBeLessThan(1e-4);
        });
        wantB.forEach((want, i) => {
          expect(Math.abs((gotB?.[i] ?? NaN) - want)).toBeLessThan(1e-4);
        });
        for (const t of [a, b, y, da, db]) t?.dispose();
      }),
      { numRuns: 40, seed: 7 },
    );
  });

  it.each([1, 3, 4, 5, 63, 64, 65, 255, 257, 1023])("writes exactly its %i elements", async (n) => {
    const y = await add(gpu.tensor(numbers(n, 5), [n]), 1).read();
    expect([...y]).toEqual(numbers(n, 5).map((v) => Math.fround(v + 1)));
  });

  it("reduces a broadcast operand over many rows in a fixed order", async () => {
    const [rows, width] = [3001, 12];
    const x = gpu.tensor(numbers(rows * width, 1), [rows, width]);
    const bias = gpu.tensor(numbers(width, 2), [width]);
    const scale = gpu.tensor([0.5], []);
    const gradients = async (): Promise<number[]> => {
      const run = vjp(() => [mul(add(x, bias), scale)], [bias, scale]);
      const [db, ds] = run.pullback([gpu.full([rows, width], 1)]);
      return [...((await db?.read()) ?? []), ...((await ds?.read()) ?? [])];
    };
    const first = await gradients();
    expect(first.slice(0, width).every((v) => v === rows * 0.5)).toBe(true);
    const total = numbers(rows * width, 1).reduce(
      (s, v, i) => s + v + (numbers(width, 2)[i % width] ?? NaN),
      0,
    );
    expect(Math.abs((first[width] ?? NaN) - total) / Math.abs(total)).toBeLessThan(2e-5);
    expect(await gradients()).toEqual(first);
  });

  it("takes integer conditions and numbers", async () => {
    const condition = gpu.tensor([1, 0, 2, 0], [4], "i32");
    expect([...(await where(condition, gpu.tensor([1, 2, 3, 4], [4]), -1).read())]).toEqual([1, -1, 3, -1]);
    expect([...(await div(6, gpu.tensor([1, 2, 3], [3])).read())]).toEqual([6, 3, 2]);
  });

  it("keeps f16 in f16 and widens mixtures", async (context) => {
    if (!gpu.features.f16) context.skip("the adapter has no f16");
    const half = gpu.tensor([0.5, 1.5, 2.5], [3], "f16");
    const sum = add(half, 1);
    expect(sum.dtype).toBe("f16");
    expect([...(await sum.read())]).toEqual([1.5, 2.5, 3.5]);
    expect(add(half, gpu.zeros([3])).dtype).toBe("f32");
    const run = vjp(() => [cast(mul(half, half), "f32")], [half]);
    const [g] = run.pullback([gpu.full([3], 1)]);
    expect(g?.dtype).toBe("f16");
    expect([...((await g?.read()) ?? [])]).toEqual([1, 3, 5]);
  });

  it("casts between dtypes", async () => {
    const x = gpu.tensor([-2.7, 2.7, 16777217], [3]);
    expect([...(await cast(x, "i32").read())]).toEqual([-2, 2, 16777216]);
    expect([...(await cast(gpu.tensor([1, 2 ** 31], [2], "u32"), "f32").read())]).toEqual([1, 2 ** 31]);
  });

  it("never recompiles for another number or shape of the same kind", async () => {
    const op = elementwise("affine", ["x", "a"], (x, a) => e.add(e.mul(x, a), a));
    await op(gpu.zeros([8]), 1).read();
    const { pipelines } = gpu.counters();
    await op(gpu.zeros([1001]), 2).read();
    await op(gpu.zeros([7, 3, 2]), -3).read();
    expect(gpu.counters().pipelines).toBe(pipelines);
  });

  it("writes many gradients in several passes where a device binds few buffers", async () => {
    const small = await openSmallDevice();
    try {
      expect(small.limits.maxStorageBuffersPerShaderStage).toBe(8);
      const names = ["a", "b", "c", "d", "f", "g"];
      const op = elementwise("six", names, (...args) => args.reduce((x, y) => e.mul(x, e.add(y, 2))));
      const reference = (...args: Float64Array[]): number[] =>
        Array.from(args[0]!, (first, i) => args.slice(1).reduce((x, y) => x * (y[i]! + 2), first));
      await checkOp(
        small,
        op,
        reference,
        names.map((_, i) => operand([5], i)),
      );
      const eight = elementwise("eight", [...names, "h", "k"], (...args) => args.reduce(e.add));
      const given = Array.from({ length: 8 }, () => small.zeros([2]));
      expect(() => eight(...given)).toThrow(/^eight: binds 9 tensors .*; this device allows 8/);
    } finally {
      small.destroy();
    }
  });

  it("integers and half precision that one number or one of a row spreads from", async () => {
    const op = elementwise("spread", ["x", "one", "each"], (x, one, each) => e.add(e.mul(x, one), each));
    const x = gpu.tensor(numbers(16, 1), [2, 8]);
    const expected = numbers(16, 1).map((v, i) => v * 3 + (i < 8 ? 5 : 7));
    for (const dtype of gpu.features.f16 ? (["i32", "f16"] as const) : (["i32"] as const)) {
      const [one, each] = [gpu.tensor([3], [1], dtype), gpu.tensor([5, 7], [2, 1], dtype)];
      const out = await op(x, one, each).read();
      out.forEach((v, i) => {
        expect(v).toBeCloseTo(expected[i]!, 5);
      });
    }
  });

  it("refuses shapes that do not broadcast, naming them", () => {
    expect(() => add(gpu.zeros([2, 3]), gpu.zeros([2]))).toThrow(ShapeError);
    expect(() => add(gpu.zeros([2, 3]), gpu.zeros([2]))).toThrow(
      "add: shapes [2, 3] and [2] do not broadcast: 3 meets 2",
    );
    expect(() => add(1, 2)).toThrow(/at least one must be a tensor/);
  });
});
