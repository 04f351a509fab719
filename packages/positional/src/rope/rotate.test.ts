import { describe, expect, it } from "vitest";
import { transpose } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu } from "@x/testing";
import { rotate } from "./rotate.js";
import { RotaryEmbedding } from "./rope.js";

const cosines = (rows: number, pairs: number): Float64Array =>
  Float64Array.from({ length: rows * pairs }, (_, i) => Math.fround(Math.cos(i * 0.7)));
const sines = (rows: number, pairs: number): Float64Array =>
  Float64Array.from({ length: rows * pairs }, (_, i) => Math.fround(Math.sin(i * 0.7)));

/** x [2, heads, seq, dim] turned by the row of each token, in float64. */
function reference(
  x: ArrayLike<number>,
  [, heads, seq, dim]: readonly [number, number, number, number],
  pairs: number,
  row: (b: number, s: number) => number,
  interleaved: boolean,
  rows = 64,
): Float64Array {
  const out = Float64Array.from(x);
  const [cos, sin] = [cosines(rows, pairs), sines(rows, pairs)];
  for (let line = 0; line < x.length / dim; line++) {
    const at = row(Math.floor(line / (heads * seq)), line % seq) * pairs;
    for (let i = 0; i < pairs; i++) {
      const [u, v] = interleaved ? [2 * i, 2 * i + 1] : [i, i + pairs];
      const [a, b] = [x[line * dim + u]!, x[line * dim + v]!];
      out[line * dim + u] = a * cos[at + i]! - b * sin[at + i]!;
      out[line * dim + v] = b * cos[at + i]! + a * sin[at + i]!;
    }
  }
  return out;
}

describe("rotate", () => {
  const device = useGpu();

  it("turns by the tables' rows: all or a part of the features, by offset, by ids, by token; with gradients", async () => {
    const { gpu } = device;
    for (const [dim, pairs] of [
      [8, 4],
      [8, 2],
      [10, 3],
    ] as const)
      for (const interleaved of [false, true]) {
        const shape = [2, 3, 5, dim] as const;
        const table = (data: Float64Array, rows: number) => gpu.tensor(data, [rows, pairs]);
        const tables = { cos: table(cosines(64, pairs), 64), sin: table(sines(64, pairs), 64), interleaved };
        const ids = [7, 0, 63, 7, 12, 1, 2, 3, 40, 50];
        const positionIds = gpu.tensor(ids, [2, 5], "i32");
        const whole = {
          cos: table(cosines(10, pairs), 10).reshape([2, 5, pairs]),
          sin: table(sines(10, pairs), 10).reshape([2, 5, pairs]),
          interleaved,
        };
        for (const [options, row] of [
          [{ ...tables, positionOffset: 9 }, (_: number, s: number) => 9 + s],
          [{ ...tables, positionIds }, (b: number, s: number) => ids[b * 5 + s]!],
          [whole, (b: number, s: number) => b * 5 + s],
        ] as const)
          await checkOp(
            gpu,
            (x) => rotate(x, options),
            (x) => reference(x, shape, pairs, row, interleaved),
            [operand(shape, 1)],
          );
      }
  });

  it("is what RoPE does with its tables, in either layout", async () => {
    const { gpu } = device;
    const rope = new RotaryEmbedding({ headDim: 16 });
    const { invFreq } = rope.frequencies();
    const angles = Array.from({ length: 6 * 8 }, (_, i) => Math.floor(i / 8) * invFreq[i % 8]!);
    const tables = {
      cos: gpu.tensor(angles.map(Math.cos), [6, 8]),
      sin: gpu.tensor(angles.map(Math.sin), [6, 8]),
    };
    const { data, shape } = operand([2, 3, 6, 16], 4);
    const x = gpu.tensor(data, shape);
    const expected = await rope.apply(x).read();
    expect(await rotate(x, tables).read()).toEqual(expected);
    const turned = rotate(transpose(x, [0, 2, 1, 3]), { ...tables, layout: "bshd" });
    expect(relativeError(await transpose(turned, [0, 2, 1, 3]).read(), expected)).toBe(0);
    rope.dispose();
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const x = gpu.zeros([2, 3, 5, 8]);
    const [cos, sin] = [gpu.zeros([4, 4]), gpu.zeros([4, 4])];
    const positionIds = gpu.zeros([2, 5], "i32");
    const perToken = { cos: gpu.zeros([2, 5, 4]), sin: gpu.zeros([2, 5, 4]) };
    expect(() => rotate(x, { cos, sin })).toThrow(/the tables have 4 rows; the tokens take rows up to 4/);
    expect(() => rotate(x, { cos, sin: gpu.zeros([4, 3]), positionIds })).toThrow(/sin has shape \[4, 3\]/);
    expect(() => rotate(x, { cos, sin, positionIds: gpu.zeros([2, 4], "i32") })).toThrow(
      /positions have shape/,
    );
    expect(() => rotate(x, { cos, sin, positionIds: gpu.zeros([2, 5]) })).toThrow(/must be i32/);
    expect(() => rotate(x, { ...perToken, positionIds })).toThrow(/positions are given/);
    expect(() => rotate(x, { cos: gpu.zeros([2, 4, 4]), sin })).toThrow(/cos has shape \[2, 4, 4\]/);
    expect(() => rotate(x, { cos: gpu.zeros([9, 5]), sin: gpu.zeros([9, 5]) })).toThrow(/10 are to turn/);
    expect(() => rotate(x, { ...perToken, position: 1 } as never)).toThrow(/unknown key "position"/);
    expect(() => rotate(x, cos as never)).toThrow(/rotate: /);
    expect(() => rotate(undefined as never, perToken)).toThrow(/x is undefined/);
  });
});
