import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, DTypeError, ShapeError, vjp, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, product, relativeError, useGpu } from "@x/testing";
import { RotaryEmbedding } from "./rope.js";
import { rotateReference } from "./rope.reference.js";
import { plainFrequencies } from "./frequencies.js";
import type { RopeConfig } from "./resolve.js";

const device = useGpu();

/** Heads off every tile: partial, odd widths with a remainder, pieces of four and single features. */
const SHAPES: readonly {
  readonly shape: readonly [number, number, number, number];
  readonly rotaryDim: number;
}[] = [
  { shape: [1, 1, 1, 2], rotaryDim: 2 },
  { shape: [2, 3, 5, 16], rotaryDim: 16 },
  { shape: [1, 2, 3, 20], rotaryDim: 8 },
  { shape: [2, 1, 4, 7], rotaryDim: 6 },
  { shape: [1, 2, 3, 12], rotaryDim: 12 },
  { shape: [1, 1, 5, 9], rotaryDim: 4 },
];

const dot = (a: ArrayLike<number>, b: ArrayLike<number>, at = 0, bt = 0, n = a.length): number => {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[at + i]! * b[bt + i]!;
  return sum;
};

describe("rope", () => {
  it("turns pairs by position times frequency, with gradients, in both layouts", async () => {
    for (const { shape, rotaryDim } of SHAPES)
      for (const layout of ["half", "interleaved"] as const) {
        const [batch, heads, seq, headDim] = shape;
        const rope = new RotaryEmbedding({ headDim, rotaryDim, layout });
        const p = { batch, heads, seq, headDim, interleaved: layout === "interleaved" };
        const invFreq = plainFrequencies({ d: rotaryDim, base: 10000 });
        await checkOp(
          device.gpu,
          (x) => rope.apply(x, { positionOffset: 3 }),
          (x) => rotateReference({ ...p, invFreq, position: (_, s) => s + 3 }, x),
          [operand(shape, 1)],
        );
        rope.dispose();
      }
  });

  it("takes queries and keys in one pass, with their own heads, as two passes do", async () => {
    const { gpu } = device;
    for (const { shape, rotaryDim } of SHAPES)
      for (const layout of ["half", "interleaved"] as const) {
        const [batch, , seq, headDim] = shape;
        const rope = new RotaryEmbedding({ headDim, rotaryDim, layout });
        const [q, k] = [operand([batch, 6, seq, headDim], 1), operand([batch, 2, seq, headDim], 2)].map((o) =>
          gpu.tensor(o.data, o.shape),
        ) as [Tensor, Tensor];
        const run = vjp(() => rope.applyQK(q, k), [q, k]);
        const cotangents = [gpu.tensor(numbers(q.size, 3), q.shape), gpu.tensor(numbers(k.size, 4), k.shape)];
        const apart = [q, k].map((x, i) => {
          const one = vjp(() => [rope.apply(x)], [x]);
          return [one.outputs[0]!, ...one.pullback([cotangents[i]])];
        });
        const grads = run.pullback(cotangents);
        for (const i of [0, 1] as const) {
          expect(await run.outputs[i]!.read()).toEqual(await apart[i]![0]!.read());
          expect(await grads[i]!.read()).toEqual(await apart[i]![1]!.read());
        }
        const onlyKeys = vjp(() => rope.applyQK(q, k), [q, k]).pullback([undefined, cotangents[1]]);
        expect(await onlyKeys[1]!.read()).toEqual(await apart[1]![1]!.read());
        expect((await onlyKeys[0]!.read()).every((v) => v === 0)).toBe(true);
      }
  });

  it("takes any ids: repeated, unordered, below zero, for each batch row, on the host or on the device", async () => {
    const { gpu } = device;
    const [batch, heads, seq, headDim] = [2, 2, 3, 8];
    const rope = new RotaryEmbedding({ headDim });
    const invFreq = rope.frequencies().invFreq;
    const x = operand([batch, heads, seq, headDim], 5);
    const t = gpu.tensor(x.data, x.shape);
    for (const positions of [
      [7, 0, 7],
      [131071, 4, 90000],
      [5, 2, 2, 9, 0, 100],
      [-3, 4, -1],
    ]) {
      const position = (b: number, s: number): number => positions[positions.length > seq ? b * seq + s : s]!;
      const expected = rotateReference(
        { batch, heads, seq, headDim, invFreq, interleaved: false, position },
        x.data,
      );
      expect(relativeError(await rope.apply(t, { positions }).read(), expected)).toBeLessThan(1e-6);
      if (Math.min(...positions) < 0 || Math.max(...positions) > 200) continue;
      const ids = gpu.tensor(
        Array.from({ length: batch * seq }, (_, n) => position(Math.floor(n / seq), n % seq)),
        [batch, seq],
        "i32",
      );
      expect(
        relativeError(await rope.apply(t, { positionIds: ids, seqLen: 128 }).read(), expected),
      ).toBeLessThan(1e-6);
    }
  });

  it("is right at position 131071, where float32 angles are not", async () => {
    const { gpu } = device;
    for (const headDim of [64, 128]) {
      const rope = new RotaryEmbedding({ headDim, base: 500000 });
      const x = operand([1, 1, 2, headDim], 1);
      const expected = rotateReference(
        {
          batch: 1,
          heads: 1,
          seq: 2,
          headDim,
          invFreq: rope.frequencies().invFreq,
          interleaved: false,
          position: (_, s) => 131070 + s,
        },
        x.data,
      );
      const t = gpu.tensor(x.data, x.shape);
      expect(
        relativeError(await rope.apply(t, { positions: [131070, 131071] }).read(), expected),
      ).toBeLessThan(1e-6);
    }
  });

  it("keeps norms, and makes q.k depend on the distance alone", async () => {
    const { gpu } = device;
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 0, max: 3 }),
        fc.integer({ min: 0, max: 100_000 }),
        fc.integer({ min: 0, max: 5000 }),
        fc.constantFrom("half" as const, "interleaved" as const),
        async (pairs, rest, position, shift, layout) => {
          const headDim = 2 * pairs + rest;
          const rope = new RotaryEmbedding({ headDim, rotaryDim: 2 * pairs, layout });
          const [a, b] = [numbers(headDim, position + 1), numbers(headDim, shift + 7)];
          const x = gpu.tensor([...a, ...b], [1, 1, 2, headDim]);
          const at = await rope.apply(x, { positions: [position + 11, position] }).read();
          const moved = await rope.apply(x, { positions: [position + shift + 11, position + shift] }).read();
          expect(Math.sqrt(dot(at, at))).toBeCloseTo(Math.sqrt(dot(a, a) + dot(b, b)), 4);
          expect(dot(moved, moved, 0, headDim, headDim)).toBeCloseTo(dot(at, at, 0, headDim, headDim), 4);
        },
      ),
      { numRuns: 20 },
    );
  });

  it("at an offset gives the rows of the whole sequence, for every scaling", async () => {
    const { gpu } = device;
    const headDim = 8;
    const L = { originalMaxPositionEmbeddings: 16 };
    const scalings: NonNullable<RopeConfig["scaling"]>[] = [
      { type: "none" },
      { type: "linear", factor: 2 },
      { type: "superhot" },
      { type: "ntk", factor: 4 },
      { type: "dynamicNtk", factor: 2, ...L },
      { type: "ntkByParts", factor: 4, ...L },
      { type: "yarn", factor: 4, ...L },
      { type: "longrope", shortFactor: [1, 1, 2, 2], longFactor: [1, 2, 3, 4], factor: 4, ...L },
      { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, ...L },
      { type: "custom", pairFactors: [1, 2, 3, 4], attentionFactor: 1.5 },
    ];
    const all = gpu.tensor(numbers(40 * headDim, 1), [1, 1, 40, headDim]);
    for (const scaling of scalings) {
      const rope = new RotaryEmbedding({ headDim, scaling });
      const whole = await rope.apply(all).read();
      for (const at of [0, 15, 39]) {
        const row = gpu.tensor(numbers(40 * headDim, 1).slice(at * headDim, (at + 1) * headDim), [
          1,
          1,
          1,
          headDim,
        ]);
        const one = await rope.apply(row, { positionOffset: at, seqLen: 40 }).read();
        expect(relativeError(one, whole.slice(at * headDim, (at + 1) * headDim)), scaling.type).toBeLessThan(
          1e-6,
        );
      }
      rope.dispose();
    }
  });

  it("takes the sequence before the heads", async () => {
    const { gpu } = device;
    const [batch, heads, seq, headDim] = [2, 3, 4, 8];
    const rope = new RotaryEmbedding({ headDim });
    const x = numbers(product([batch, heads, seq, headDim]), 2);
    const turned = new Float64Array(x.length);
    const swap = (from: ArrayLike<number>, to: Float64Array): Float64Array => {
      for (let b = 0; b < batch; b++)
        for (let h = 0; h < heads; h++)
          for (let s = 0; s < seq; s++)
            for (let d = 0; d < headDim; d++)
              to[((b * seq + s) * heads + h) * headDim + d] =
                from[((b * heads + h) * seq + s) * headDim + d]!;
      return to;
    };
    const a = await rope.apply(gpu.tensor(x, [batch, heads, seq, headDim])).read();
    const b = await rope
      .apply(gpu.tensor(swap(x, turned), [batch, seq, heads, headDim]), { layout: "bshd" })
      .read();
    expect(relativeError(b, swap(a, new Float64Array(x.length)))).toBe(0);
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const rope = new RotaryEmbedding({ headDim: 8 });
    const x = gpu.zeros([1, 2, 3, 8]);
    expect(() => rope.apply(gpu.zeros([1, 2, 3, 6]))).toThrow(/x has 6 features a head; headDim is 8/);
    expect(() => rope.apply(gpu.zeros([2, 3, 8]))).toThrow(ShapeError);
    expect(() => rope.apply(gpu.zeros([1, 2, 3, 8], "i32"))).toThrow(DTypeError);
    expect(() => rope.apply(x, { positions: [1, 2] })).toThrow(
      /positions has 2 entries; it must have 3 or 3/,
    );
    expect(() => rope.apply(x, { positions: [1, 2, 0.5] })).toThrow(/positions is 0.5/);
    expect(() => rope.apply(x, { positionOffset: -1 })).toThrow(/positionOffset is -1/);
    expect(() => rope.apply(x, { positionIds: gpu.zeros([1, 3], "i32") })).toThrow(
      /seqLen \(with positionIds\)/,
    );
    expect(() => rope.apply(x, { offset: 1 } as never)).toThrow(/unknown key "offset"/);
    expect(() => rope.applyQK(x, gpu.zeros([1, 2, 4, 8]))).toThrow(/only the heads may differ/);
    expect(() => new RotaryEmbedding({ headDim: 8, rotaryDim: 3 })).toThrow(
      /rotaryDim is 3; it must be even/,
    );
    expect(() => new RotaryEmbedding({ headDim: 8, rotaryDim: 10 })).toThrow(/rotaryDim is 10/);
    expect(() => new RotaryEmbedding({ headDim: 8, layout: "halves" as never })).toThrow(ConfigError);
    expect(() => new RotaryEmbedding({ headDim: 7 })).toThrow(/rotaryDim is 7; it must be even/);
  });
});
