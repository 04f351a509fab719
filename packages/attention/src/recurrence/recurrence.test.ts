import { describe, expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import {
  RecurrentMemoryTransformer,
  TransformerXl,
  TransformerXlAttention,
  type RmtConfig,
  type TransformerXlConfig,
} from "../index.js";
import {
  expectCausal,
  expectConstantMemory,
  expectSame,
  inPieces,
  parametersOf,
  random,
  rows,
} from "../test-support.js";
import { transformerXlReference } from "./transformer_xl.reference.js";

describe("Transformer-XL", () => {
  const device = useGpu();
  const config = { dim: 8, numHeads: 2, headDim: 5, clampLen: 4 };
  const layerOf = (): TransformerXlAttention =>
    new TransformerXlAttention(config, parametersOf(device.gpu, TransformerXlAttention.plan(config)));

  it("is the float64 reference; gradients reach everything but the memory", async () => {
    const plan = TransformerXlAttention.plan(config);
    const memory = operand([2, 3, 8], 2);
    const p = { batch: 2, seq: 4, memory: 3 };
    await checkOp(
      device.gpu,
      (x, ...weights) => {
        const named = Object.fromEntries(Object.keys(plan).map((name, i) => [name, weights[i]!]));
        const layer = new TransformerXlAttention(config, named);
        const out = layer.forward(x, { memory: device.gpu.tensor(memory.data, memory.shape) });
        layer.dispose();
        return out;
      },
      (x, ...weights) => transformerXlReference(config, p)(x, memory.data, ...weights),
      [operand([2, 4, 8], 1), ...Object.values(plan).map(({ shape }, i) => operand(shape, 10 + i))],
    );
    const layer = layerOf();
    const given = device.gpu.tensor(memory.data, memory.shape);
    const x = random(device.gpu, [2, 4, 8], 1);
    const run = vjp(() => [layer.forward(x, { memory: given })], [given, x]);
    const [dm, dx] = run.pullback([random(device.gpu, [2, 4, 8], 5)]);
    expect(Array.from(await dm!.read()).every((g) => g === 0)).toBe(true);
    expect(Array.from(await dx!.read()).some((g) => g !== 0)).toBe(true);
    layer.dispose();
  });

  it("segments = one call per segment with the hidden states before it; decoding gives the same", async () => {
    const { gpu } = device;
    const apartFrom = layerOf();
    const segments = { ...config, segmentLen: 5, memLen: 7 };
    const layer = new TransformerXlAttention(segments, apartFrom.parameters());
    const x = random(gpu, [2, 17, 8], 3);
    const whole = layer.forward(x);
    const cuts = [0, 5, 10, 15, 17];
    const apart = cuts.slice(1).map((end, s) => {
      const start = cuts[s]!;
      return apartFrom.forward(rows(x, start, end), {
        memory: start > 0 ? rows(x, Math.max(0, start - 7), start) : undefined,
      });
    });
    let at = 0;
    await expectSame(
      inPieces(gpu, x, [5, 5, 5, 2], () => apart[at++]!),
      whole,
    );
    for (const pieces of [[17], [6, 1, 1, 9], Array<number>(17).fill(1)]) {
      const state = layer.createState({ batch: 2, maxLength: 17, maxChunk: 4 });
      await expectSame(
        inPieces(gpu, x, pieces, (piece) => layer.forward(piece, { state })),
        whole,
      );
      expect(state.slots).toBe(15);
      state.dispose();
    }
    await expectCausal(gpu, x, 8, (y) => layer.forward(y));
    // A memory is what comes before the first segment, of which each segment sees the last memLen.
    const memory = rows(x, 0, 10);
    await expectSame(layer.forward(rows(x, 10, 17), { memory }), rows(whole, 10, 17));
    layer.dispose();
    apartFrom.dispose();
  });

  it("the stack goes on from the memory that it gave, in constant memory", async () => {
    const { gpu } = device;
    const own: TransformerXlConfig = {
      dim: 8,
      numHeads: 2,
      headDim: 4,
      ffnDim: 12,
      layers: 2,
      segmentLen: 4,
      memLen: 6,
    };
    const stack = new TransformerXl(own, parametersOf(gpu, TransformerXl.plan(own)));
    const x = random(gpu, [1, 12, 8], 3);
    const whole = stack.outputs(x);
    await expectSame(stack.forward(x), whole.out);
    let memory: Tensor | undefined;
    const out = inPieces(gpu, x, [4, 8], (piece) => {
      const step = stack.outputs(piece, { memory });
      memory = step.memory;
      return step.out;
    });
    await expectSame(out, whole.out);
    expect(whole.memory.shape).toEqual([2, 1, 6, 8]);
    const first = rows(x, 0, 4);
    await expectConstantMemory(gpu, 6, () => stack.forward(first, { memory: whole.memory }));
    expect(() => stack.forward(first, { memory: first })).toThrow(/memory has shape \[1, 4, 8\]/);
    stack.dispose();
  });

  it("refuses what does not go together", () => {
    const layer = layerOf();
    const x = random(device.gpu, [1, 4, 8], 1);
    const size = { batch: 1, maxLength: 4 };
    expect(() => layer.createState(size)).toThrow(/segmentLen is missing; decoding needs it/);
    expect(() => TransformerXlAttention.plan({ ...config, segmentLen: 0 })).toThrow(/segmentLen is 0/);
    const of = (segmentLen: number): TransformerXlAttention =>
      new TransformerXlAttention({ ...config, segmentLen, memLen: 2 }, layer.parameters());
    const state = of(2).createState(size);
    expect(() => of(2).forward(x, { memory: x, state })).toThrow(/a state holds the memory/);
    expect(() => of(3).forward(x, { state })).toThrow(/window of 4 keys; it must be segmentLen \+ memLen, 5/);
    expect(() => layer.forward(x, { positions: [0, 1, 2, 3] })).toThrow(/positions is given without a state/);
    state.dispose();
    expect(() => TransformerXlAttention.plan({ ...config, dim: 7 })).toThrow(/dim is 7; it must be even/);
  });
});

describe("RecurrentMemoryTransformer", () => {
  const device = useGpu();
  const config: RmtConfig = {
    dim: 8,
    numHeads: 2,
    headDim: 4,
    ffnDim: 12,
    layers: 2,
    segmentLen: 5,
    memTokens: 3,
    mode: "decoder",
  };

  it.each([
    ["zones", {}],
    ["one causal order", { memoryCausal: true }],
    ["learned write slots", { writeInit: "learned" }],
  ] as [string, Partial<RmtConfig>][])("%s: decoding token by token = the whole run", async (_, extra) => {
    const { gpu } = device;
    const own = { ...config, ...extra };
    const model = new RecurrentMemoryTransformer(
      own,
      parametersOf(gpu, RecurrentMemoryTransformer.plan(own)),
    );
    const x = random(gpu, [2, 13, 8], 3);
    const whole = model.outputs(x);
    for (const pieces of [[13], [3, 4, 1, 5], Array<number>(13).fill(1)]) {
      const state = model.createState({ batch: 2 });
      await expectSame(
        inPieces(gpu, x, pieces, (piece) => model.forward(piece, { state })),
        whole.out,
      );
      await expectSame(state.finishSegment(), whole.memory);
      state.dispose();
    }
    await expectCausal(gpu, x, 7, (y) => model.forward(y));
  });

  it("memory reaches later segments, and nothing grows with the text", async () => {
    const { gpu } = device;
    const model = new RecurrentMemoryTransformer(
      config,
      parametersOf(gpu, RecurrentMemoryTransformer.plan(config)),
    );
    const x = random(gpu, [1, 15, 8], 3);
    const run = vjp(() => [rows(model.forward(x), 10, 15)], [x]);
    const [dx] = run.pullback([random(gpu, [1, 5, 8], 4)]);
    expect(
      Array.from(await dx!.read())
        .slice(0, 40)
        .some((g) => g !== 0),
    ).toBe(true);
    const cut = new RecurrentMemoryTransformer({ ...config, detachEvery: 1 }, model.parameters());
    const other = vjp(() => [rows(cut.forward(x), 10, 15)], [x]);
    const [none] = other.pullback([random(gpu, [1, 5, 8], 4)]);
    expect(
      Array.from(await none!.read())
        .slice(0, 80)
        .every((g) => g === 0),
    ).toBe(true);
    const state = model.createState({ batch: 1 });
    expect(() => cut.forward(x, { state })).toThrow(/the state is of another model/);
    expect(() => model.forward(x, { state, memory: x })).toThrow(/the state holds the memory/);
    const token = rows(x, 0, 1);
    // Whole segments: the write slots run in each.
    await expectConstantMemory(gpu, 6, () => {
      for (let n = 0; n < 5; n++) model.forward(token, { state });
    });
    state.dispose();
  });

  it("refuses bad configurations", () => {
    const plan = (change: object) => () => RecurrentMemoryTransformer.plan({ ...config, ...change });
    expect(plan({ mode: "both" })).toThrow(/mode is "both"; it must be one of decoder, encoder/);
    expect(plan({ mode: "encoder", memoryCausal: true })).toThrow(/belong to the decoder/);
    expect(plan({ memTokens: 0 })).toThrow(/memTokens is 0/);
    expect(plan({ segments: 3 })).toThrow(/unknown key "segments"/);
  });
});
