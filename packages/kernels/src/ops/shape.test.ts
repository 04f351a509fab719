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
    expect(() => slice(x, { axis: 1, start: 9 })).toThrow(/start is 9/);
    expect(() => slice(x, { axis: 1, step: 0 })).toThrow(/step is 0/);
    expect(() => broadcastTo(x, [3, 2])).toThrow(ShapeError);
  });
});
