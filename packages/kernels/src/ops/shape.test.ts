import { describe, expect, it } from "vitest";
import {
  broadcastTo,
  concat,
  flip,
  pad,
  repeat,
  ShapeError,
  slice,
  split,
  stack,
  transpose,
  vjp,
  type Tensor,
} from "../index.js";
import { checkOp, operand, product, useGpu } from "../test-support.js";
import { stridesOf } from "./strided.js";

const device = useGpu();

/** Values of x at computed positions. */
const take = (
  shape: readonly number[],
  at: (index: number[]) => number,
): ((x: Float64Array) => Float64Array) => {
  const strides = stridesOf(shape);
  return (x) =>
    Float64Array.from({ length: product(shape) }, (_, flat) => {
      const i = at(strides.map((s, axis) => Math.floor(flat / s) % shape[axis]!));
      return i < 0 ? 0 : x[i]!;
    });
};

describe("shape ops", () => {
  it("transpose reorders axes, with gradients", async () => {
    await checkOp(
      device.gpu,
      (x) => transpose(x),
      take([5, 3], ([i, j]) => j! * 5 + i!),
      [operand([3, 5], 1)],
    );
    await checkOp(
      device.gpu,
      (x) => transpose(x, [2, 0, 3, 1]),
      take([4, 2, 8, 3], ([c, a, d, b]) => ((a! * 3 + b!) * 4 + c!) * 8 + d!),
      [operand([2, 3, 4, 8], 2)],
    );
  });

  it("slice takes ranges, steps and negative bounds, with gradients", async () => {
    await checkOp(
      device.gpu,
      (x) => slice(x, { axis: 1, start: 1, end: -1 }),
      take([3, 3], ([i, j]) => i! * 5 + j! + 1),
      [operand([3, 5], 1)],
    );
    await checkOp(
      device.gpu,
      (x) => slice(x, { axis: 0, step: 2 }, { axis: -1, step: -1 }),
      take([2, 4], ([i, j]) => i! * 8 + 3 - j!),
      [operand([3, 4], 1)],
    );
    await checkOp(
      device.gpu,
      (x) => flip(x, 0),
      take([3, 4], ([i, j]) => (2 - i!) * 4 + j!),
      [operand([3, 4], 1)],
    );
  });

  it("split and concat are inverse, with gradients", async () => {
    for (const axis of [0, 1, 2])
      await checkOp(
        device.gpu,
        (x) => {
          const n = x.shape[axis]!;
          return concat(split(x, [1, n - 3, 2], axis), axis);
        },
        (x) => x,
        [operand([4, 5, 6], axis)],
      );
    await checkOp(
      device.gpu,
      (a, b) => concat([a, b], 1),
      (a, b) => [...a.slice(0, 3), ...b.slice(0, 4), ...a.slice(3), ...b.slice(4)],
      [operand([2, 3], 1), operand([2, 4], 2)],
    );
  });

  it("stack, pad, repeat and broadcastTo, with gradients", async () => {
    await checkOp(
      device.gpu,
      (a, b) => stack([a, b], 1),
      (a, b) => [...a.slice(0, 3), ...b.slice(0, 3), ...a.slice(3), ...b.slice(3)],
      [operand([2, 3], 1), operand([2, 3], 2)],
    );
    await checkOp(
      device.gpu,
      (x) => pad(x, 1, 2, 1),
      take([2, 6], ([i, j]) => (j! < 2 || j! > 4 ? -1 : i! * 3 + j! - 2)),
      [operand([2, 3], 1)],
    );
    await checkOp(
      device.gpu,
      (x) => repeat(x, 3, 1),
      take([2, 6, 2], ([i, j, k]) => (i! * 2 + Math.floor(j! / 3)) * 2 + k!),
      [operand([2, 2, 2], 1)],
    );
    await checkOp(
      device.gpu,
      (x) => broadcastTo(x, [2, 3, 4]),
      take([2, 3, 4], ([, i]) => i!),
      [operand([3, 1], 1)],
    );
  });

  it("moves integers and halves too", async ({ skip }) => {
    const { gpu } = device;
    expect([...(await transpose(gpu.tensor([1, 2, 3, 4, 5, 6], [2, 3], "i32")).read())]).toEqual([
      1, 4, 2, 5, 3, 6,
    ]);
    if (!gpu.features.f16) skip("the adapter has no shader-f16");
    expect([
      ...(await slice(gpu.tensor([1, 2, 3, 4, 5], [5], "f16"), { axis: 0, start: 1, end: 4 }).read()),
    ]).toEqual([2, 3, 4]);
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const x = gpu.zeros([2, 3]);
    expect(() => transpose(x, [0, 0])).toThrow(/axes are \[0, 0\]/);
    expect(() => transpose(gpu.zeros([3]))).toThrow(ShapeError);
    expect(() => split(x, [1, 1], 1)).toThrow(/sizes are \[1, 1\] \(2 in all\); axis 1 of \[2, 3\] has 3/);
    expect(() => concat([x, gpu.zeros([3, 3])], 1)).toThrow(/tensor 1 has shape \[3, 3\]/);
    expect(() => slice(x, { axis: 2 })).toThrow(/axis is 2/);
    expect(() => slice(x, { axis: 1, start: 0.5 })).toThrow(/start is 0.5/);
    expect(() => slice(x, { axis: 1, step: 0 })).toThrow(/step is 0/);
    expect(() => broadcastTo(x, [3, 2])).toThrow(ShapeError);
  });

  it("clamps the bounds of a slice to its axis, as NumPy and ONNX do", async () => {
    const { gpu } = device;
    const x = gpu.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [2, 5]);
    const backwards = { axis: 1, start: 5, end: 0, step: -1 };
    expect([...(await slice(x, backwards).read())]).toEqual([4, 3, 2, 1, 9, 8, 7, 6]);
    const { pullback } = vjp(() => [slice(x, backwards)], [x]);
    const [grad] = pullback([gpu.tensor([1, 2, 3, 4, 5, 6, 7, 8], [2, 4])]);
    expect([...(await grad!.read())]).toEqual([0, 4, 3, 2, 1, 0, 8, 7, 6, 5]);
    // Every range of bounds and steps against JavaScript's own walk over the axis.
    for (const step of [1, 2, 3, 9, -1, -2, -9]) {
      for (const start of [undefined, -99, -6, -5, -1, 0, 2, 4, 5, 6, 99]) {
        for (const end of [undefined, -99, -6, -5, -1, 0, 2, 4, 5, 6, 99]) {
          const at = (value: number): number => (value < 0 ? value + 5 : value);
          const clamp = (value: number): number =>
            step > 0 ? Math.min(Math.max(value, 0), 5) : Math.min(Math.max(value, -1), 4);
          const first = start === undefined ? (step > 0 ? 0 : 4) : clamp(at(start));
          const stop = end === undefined ? (step > 0 ? 5 : -1) : clamp(at(end));
          const expected: number[] = [];
          for (let i = first; step > 0 ? i < stop : i > stop; i += step) expected.push(i);
          const range = {
            axis: 1,
            step,
            ...(start === undefined ? {} : { start }),
            ...(end === undefined ? {} : { end }),
          };
          const out = slice(x, range);
          expect(out.shape, JSON.stringify(range)).toEqual([2, expected.length]);
          if (start === 5 || end === -6 || start === undefined)
            expect([...(await out.read())], JSON.stringify(range)).toEqual([
              ...expected,
              ...expected.map((i) => i + 5),
            ]);
          out.dispose();
        }
      }
    }
    expect(slice(gpu.zeros([2, 0]), { axis: 1, step: -1 }).shape).toEqual([2, 0]);
    expect(flip(gpu.zeros([2, 0]), 1).shape).toEqual([2, 0]);
  });

  it("pads by the edge, the mirror image, the other end, and takes away", async () => {
    const { gpu } = device;
    const x = gpu.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
    const row = async (out: Tensor): Promise<number[]> => [...(await out.read())].slice(0, out.shape[1]);
    expect(await row(pad(x, 1, 2, 1))).toEqual([0, 0, 1, 2, 3, 0]);
    expect(await row(pad(x, 1, 2, 1, 7))).toEqual([7, 7, 1, 2, 3, 7]);
    expect(await row(pad(x, -1, 2, 1, "edge"))).toEqual([1, 1, 1, 2, 3, 3]);
    expect(await row(pad(x, 1, 5, 4, "reflect"))).toEqual([2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3]);
    expect(await row(pad(x, 1, 4, 2, "wrap"))).toEqual([3, 1, 2, 3, 1, 2, 3, 1, 2]);
    expect(await row(pad(x, 1, -1, 2))).toEqual([2, 3, 0, 0]);
    expect(await row(pad(x, 1, 1, -2, "wrap"))).toEqual([1, 1]);
    expect(pad(x, 1, -1, -2).shape).toEqual([2, 0]);
    expect(() => pad(x, 1, -2, -2)).toThrow(/take away more than axis 1/);
    expect(() => pad(x, 1, 1, 1, "mirror" as "edge")).toThrow(/one of edge, reflect, wrap/);
    expect(() => pad(gpu.zeros([0]), 0, 1, 1, "edge")).toThrow(/holds no element/);
    for (const mode of ["edge", "reflect", "wrap", 0] as const)
      await checkOp(
        gpu,
        (t) => pad(t, 0, 3, 2, mode),
        (t) => {
          const at = {
            edge: [0, 0, 0, 0, 1, 2, 2, 2],
            reflect: [1, 2, 1, 0, 1, 2, 1, 0],
            wrap: [0, 1, 2, 0, 1, 2, 0, 1],
          };
          const rows = mode === 0 ? [-1, -1, -1, 0, 1, 2, -1, -1] : at[mode];
          return rows.flatMap((i) => (i < 0 ? [0, 0] : [t[2 * i]!, t[2 * i + 1]!]));
        },
        [operand([3, 2], 1)],
      );
  });
});
