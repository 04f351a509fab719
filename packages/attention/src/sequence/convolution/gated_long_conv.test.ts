import { describe, expect, it } from "vitest";
import type { Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { GatedLongConv, gatedLongConv } from "../../index.js";
import { expectSame, inPieces, parametersOf, random, rows } from "../../test-support.js";
import { convolutionReference } from "../ssm/state_space.reference.js";
import { expectDecodes } from "../test-support.js";

interface Sizes {
  readonly batch: number;
  readonly order: number;
  readonly seq: number;
  readonly dim: number;
  readonly taps: number;
}

function reference(
  { batch, order, seq, dim, taps }: Sizes,
  v: Float64Array,
  gates: Float64Array,
  filters: Float64Array,
  skip: Float64Array,
): Float64Array {
  let z = v;
  for (let n = 0; n < order; n++) {
    const filter = filters.slice(n * dim * taps, (n + 1) * dim * taps);
    const y = convolutionReference({ batch, seq, dim, taps }, z, filter);
    const before = z;
    z = y.map((value, i) => {
      const [d, t, b] = [i % dim, Math.floor(i / dim) % seq, Math.floor(i / (dim * seq))];
      return gates[((b * order + n) * seq + t) * dim + d]! * (value + skip[n * dim + d]! * before[i]!);
    });
  }
  return z;
}

describe("gatedLongConv", () => {
  const device = useGpu();

  it.each([
    ["auto", 1, 1, 1, 3, 4],
    ["direct", 2, 2, 7, 3, 7],
    ["fft", 2, 3, 7, 3, 4],
    ["fft", 1, 2, 20, 2, 30],
  ] as const)(
    "%s: batch %i, order %i, %i tokens, %i channels, %i taps, and gradients",
    async (form, batch, order, seq, dim, taps) => {
      await checkOp(
        device.gpu,
        (v, gates, filters, skip) => gatedLongConv(v, gates, { filters, skip }, { form }).out,
        (v, gates, filters, skip) => reference({ batch, order, seq, dim, taps }, v, gates, filters, skip),
        [
          operand([batch, seq, dim], 1),
          operand([batch, order, seq, dim], 2),
          operand([order, dim, taps], 3),
          operand([order, dim], 4),
        ],
      );
    },
  );

  it.each([
    [65, 65],
    [100, 20],
    [33, 90],
  ])("%i tokens, %i taps: the forms agree, and so do pieces with the state", async (seq, taps) => {
    const { gpu } = device;
    const [v, gates] = [random(gpu, [2, seq, 5], 1), random(gpu, [2, 3, seq, 5], 2)];
    const p = { filters: random(gpu, [3, 5, taps], 3), skip: random(gpu, [3, 5], 4) };
    const direct = gatedLongConv(v, gates, p, { form: "direct", returnState: true });
    await expectSame(gatedLongConv(v, gates, p, { form: "fft" }).out, direct.out, 5e-6);
    let state: Tensor | undefined;
    let at = 0;
    const pieces = inPieces(gpu, v, [1, 7, seq - 8], (piece) => {
      const n = piece.shape[1]!;
      const own = rows(gates.reshape([6, seq, 5]), at, (at += n)).reshape([2, 3, n, 5]);
      const next = gatedLongConv(piece, own, p, { state, returnState: true });
      state = gpu.keep(next.state!);
      return next.out;
    });
    await expectSame(pieces, direct.out, 5e-6);
    await expectSame(state!, direct.state!);
  });

  it("gradients flow through the states, in both ways to go on", async () => {
    const sizes = { batch: 1, order: 2, seq: 9, dim: 2, taps: 5 };
    for (const cut of [2, 6])
      await checkOp(
        device.gpu,
        (v, gates, filters, skip) => {
          const piece = (from: number, to: number, state?: Tensor) =>
            gatedLongConv(
              rows(v, from, to),
              rows(gates.reshape([2, 9, 2]), from, to).reshape([1, 2, to - from, 2]),
              { filters, skip },
              { state, returnState: true },
            );
          const first = piece(0, cut);
          return [first.out, piece(cut, 9, first.state).out];
        },
        (v, gates, filters, skip) => reference(sizes, v, gates, filters, skip),
        [operand([1, 9, 2], 1), operand([1, 2, 9, 2], 2), operand([2, 2, 5], 3), operand([2, 2], 4)],
      );
  });

  it("the layer decodes what it computes at once, is causal, and holds its memory", async () => {
    const { gpu } = device;
    const config = { dim: 6, taps: 12 };
    const layer = new GatedLongConv(config, parametersOf(gpu, GatedLongConv.plan(config)));
    await expectDecodes(gpu, layer, 6, 2 * (2 * 18 + 2 * 11 * 6) * 4);
  });

  it("filters start with squares that sum to one", async () => {
    const layer = GatedLongConv.init(device.gpu, { dim: 64, taps: 100 }, { seed: 1 });
    const filters = await layer.parameters()["filters"]!.read();
    const squares = Array.from(filters).reduce((total, x) => total + x * x, 0);
    expect(Math.abs(squares / 128 - 1)).toBeLessThan(0.1);
    for (const t of Object.values(layer.parameters())) t.dispose();
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const p = { filters: gpu.zeros([2, 3, 4]), skip: gpu.zeros([2, 3]) };
    const [v, gates] = [gpu.zeros([1, 5, 3]), gpu.zeros([1, 2, 5, 3])];
    expect(() => gatedLongConv(v, gpu.zeros([1, 2, 4, 3]), p)).toThrow(/gates has shape \[1, 2, 4, 3\]/);
    expect(() => gatedLongConv(v, gates, { ...p, skip: gpu.zeros([3, 3]) })).toThrow(/skip has shape/);
    expect(() => gatedLongConv(v, gates, p, { form: "conv" as never })).toThrow(/form is "conv"/);
    expect(() => gatedLongConv(v, gates, p, { state: gpu.zeros([1, 2, 4, 3]) })).toThrow(/state has shape/);
    expect(() => gatedLongConv(gpu.zeros([1, 0, 3]), gates, p)).toThrow(/v has no tokens/);
    expect(() => gatedLongConv(gpu.zeros([1, 5, 3], "i32"), gates, p)).toThrow(/v is i32/);
    expect(() => gatedLongConv(v, gates, { ...p, filters: gpu.zeros([2, 3, 0]) })).toThrow(/must have/);
    expect(() => GatedLongConv.plan({ dim: 2, taps: 0 })).toThrow(/taps is 0/);
  });
});
