import { describe, expect, it } from "vitest";
import { slice, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, useGpu, type Operand } from "@x/testing";
import { h3, H3, type H3Options, type H3Parameters, type H3State } from "../../index.js";
import { expectSame, inPieces, parametersOf, random } from "../../test-support.js";
import { linearReference } from "../../engine/attention.reference.js";
import { channelsReference, convolutionReference } from "./state_space.reference.js";
import { expectDecodes } from "../test-support.js";

const NAMES = [
  ...["wQ", "bQ", "wK", "bK", "wV", "bV", "wO", "bO", "shiftKernel", "shiftSkip"],
  ...["logDt", "logAReal", "aImag", "c", "dSkip"],
];
const named = (tensors: readonly Tensor[]): H3Parameters =>
  Object.fromEntries(NAMES.map((name, i) => [name, tensors[i]!])) as never;

function parameters(dim: number, heads: number, states: number, taps: number): Operand[] {
  const near = (shape: number[], seed: number, of: (x: number, i: number) => number): Operand => ({
    shape,
    data: numbers(
      shape.reduce((a, b) => a * b),
      seed,
    )
      .map(of)
      .map(Math.fround),
  });
  return [
    ...[10, 12, 14, 16].flatMap((seed) => [operand([dim, dim], seed), operand([dim], seed + 1)]),
    operand([dim, taps], 20),
    operand([dim], 21),
    near([heads], 2, (x) => -2 + x),
    near([heads, states], 3, (x) => Math.log(0.5) + x / 2),
    near([heads, states], 4, (x, i) => Math.PI * (i % states) + x),
    operand([heads, states, 2], 5),
    operand([heads], 6),
  ];
}

/** By the definition: every product of components through its head's model. */
function reference(
  { batch, seq, dim, headDim, states }: Record<"batch" | "seq" | "dim" | "headDim" | "states", number>,
  u: Float64Array,
  p: readonly Float64Array[],
): Float64Array {
  const [wQ, bQ, wK, bK, wV, bV, wO, bO, shift, shiftSkip] = p;
  const model = p.slice(10);
  const heads = dim / headDim;
  const q = linearReference(u, wQ!, dim, bQ);
  const v = linearReference(u, wV!, dim, bV);
  const before = linearReference(u, wK!, dim, bK);
  const sizes = { batch, seq, dim, taps: shift!.length / dim };
  const k = convolutionReference(sizes, before, shift!).map((y, i) => y + shiftSkip![i % dim]! * before[i]!);
  const o = new Float64Array(u.length);
  for (let i = 0; i < headDim; i++)
    for (let j = 0; j < headDim; j++) {
      const kv = Float64Array.from({ length: batch * seq * heads }, (_, at) => {
        const [h, row] = [at % heads, Math.floor(at / heads) * dim];
        return k[row + h * headDim + i]! * v[row + h * headDim + j]!;
      });
      const y = channelsReference({ batch, seq, dim: heads, states }, "zoh", kv, model as never);
      for (let at = 0; at < kv.length; at++) {
        const [h, row] = [at % heads, Math.floor(at / heads) * dim];
        o[row + j * heads + h]! += q[row + h * headDim + i]! * y[at]!;
      }
    }
  return linearReference(o, wO!, dim, bO);
}

describe("h3", () => {
  const device = useGpu();

  it.each([
    [1, 1, 2, 1, 2, 4],
    [2, 7, 3, 1, 2, 3],
    [1, 5, 4, 2, 3, 8],
    [1, 6, 3, 3, 2, 2],
  ])(
    "batch %i, %i tokens, %i channels, heads of %i, %i states, %i taps: the reference and its gradients",
    async (batch, seq, dim, headDim, states, taps) => {
      await checkOp(
        device.gpu,
        (u, ...p) => h3(u, named(p), { headDim }).out,
        (u, ...p) => reference({ batch, seq, dim, headDim, states }, u, p),
        [operand([batch, seq, dim], 1), ...parameters(dim, dim / headDim, states, taps)],
        { gradientTolerance: 2e-4 },
      );
    },
  );

  it.each([
    [65, 1],
    [100, 3],
  ])("%i tokens, heads of %i: pieces with the state = the whole", async (seq, headDim) => {
    const { gpu } = device;
    const [dim, states, taps] = [9, 5, 4];
    const heads = dim / headDim;
    const p = named(parameters(dim, heads, states, taps).map((o) => gpu.tensor(o.data, o.shape)));
    const u = random(gpu, [2, seq, dim], 1);
    const whole = h3(u, p, { headDim });
    let state: H3State = {
      shift: gpu.zeros([2, taps - 1, dim]),
      outer: gpu.zeros([headDim * headDim * 2, heads, states, 2]),
    };
    const pieces = inPieces(gpu, u, [1, 2, 30, seq - 33], (piece) => {
      const next = h3(piece, p, { headDim, state });
      state = { shift: gpu.keep(next.state!.shift), outer: gpu.keep(next.state!.outer) };
      return next.out;
    });
    await expectSame(pieces, whole.out);
  });

  it("gradients flow through the states", async () => {
    const [batch, seq, dim, headDim, states, taps] = [1, 6, 2, 2, 2, 3];
    await checkOp(
      device.gpu,
      (u, ...p) => {
        const { gpu } = u;
        const start = { shift: gpu.zeros([1, 2, 2]), outer: gpu.zeros([4, 1, 2, 2]) };
        let state: H3State = start;
        return [0, 3].map((at) => {
          const next = h3(slice(u, { axis: 1, start: at, end: at + 3 }), named(p), { headDim, state });
          state = next.state!;
          return next.out;
        });
      },
      (u, ...p) => reference({ batch, seq, dim, headDim, states }, u, p),
      [operand([1, 6, 2], 1), ...parameters(dim, 1, states, taps)],
      { gradientTolerance: 2e-4 },
    );
  });

  it.each([{}, { headDim: 3, discretization: "bilinear" as const }])(
    "the layer decodes what it computes at once, is causal, and holds its memory: %o",
    async (options) => {
      const { gpu } = device;
      const config = { dim: 6, stateSize: 4, ...options };
      const layer = new H3(config, parametersOf(gpu, H3.plan(config)));
      const { headDim = 1 } = options as { headDim?: number };
      await expectDecodes(gpu, layer, 6, (2 * 3 * 6 + headDim * 2 * 6 * 4 * 2) * 4);
    },
  );

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const p = named(parameters(4, 4, 2, 3).map((o) => gpu.tensor(o.data, o.shape)));
    const u = gpu.zeros([1, 4, 4]);
    const bad =
      (options: H3Options): (() => unknown) =>
      () =>
        h3(u, p, options);
    expect(bad({ headDim: 3 })).toThrow(/headDim is 3; it must divide dim, 4/);
    expect(bad({ headDim: 2 })).toThrow(/logDt has shape \[4\]; it must be \[2\]/);
    expect(bad({ headdim: 2 } as never)).toThrow(/did you mean "headDim"/);
    expect(() => h3(u, { ...p, wQ: gpu.zeros([4, 3]) })).toThrow(/wQ has shape \[4, 3\]/);
    expect(() => h3(gpu.zeros([1, 0, 4]), p)).toThrow(/u has no tokens/);
    expect(() => h3(u, { ...p, bO: gpu.zeros([4], "i32") })).toThrow(/bO is i32/);
    expect(() => H3.plan({ dim: 4, stateSize: 2, headDim: 3 })).toThrow(/headDim is 3/);
  });
});
