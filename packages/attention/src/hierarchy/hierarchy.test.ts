import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import {
  Sled,
  sledWindows,
  TopDownTransformer,
  Yoco,
  type SledConfig,
  type TopDownConfig,
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

const block = { dim: 8, numHeads: 2, headDim: 4, ffnDim: 12 };

describe("YOCO", () => {
  const device = useGpu();
  const config = { ...block, numKvHeads: 1, selfLayers: 2, crossLayers: 2, window: 4 };

  it("prefill + decode = forward, in pieces longer and shorter than the ring", async () => {
    const { gpu } = device;
    const model = new Yoco(config, parametersOf(gpu, Yoco.plan(config)));
    const x = random(gpu, [2, 17, 8], 3);
    const whole = model.forward(x);
    for (const pieces of [[17], [11, 1, 1, 4], Array<number>(17).fill(1)]) {
      const state = model.createState({ batch: 2, maxLength: 17, maxChunk: 3 });
      await expectSame(
        inPieces(gpu, x, pieces, (piece) => model.forward(piece, { state })),
        whole,
      );
      state.dispose();
    }
    const state = model.createState({ batch: 2, maxLength: 17 });
    await expectSame(model.prefill(rows(x, 0, 12), state), rows(whole, 11, 12));
    await expectSame(model.forward(rows(x, 12, 17), { state }), rows(whole, 12, 17));
    state.dispose();
    await expectSame(model.forward(x, { from: 9 }), rows(whole, 9, 17));
    await expectCausal(gpu, x, 8, (y) => model.forward(y));
    model.dispose();
  });

  it("caches once: a token adds one set of keys and values, however many layers there are", async () => {
    const { gpu } = device;
    const deep = { ...config, crossLayers: 5 };
    const model = new Yoco(deep, parametersOf(gpu, Yoco.plan(deep)));
    const state = model.createState({ batch: 1, maxLength: 32, maxChunk: 1 });
    expect(state.bytesPerToken).toBe(2 * 4 * 4);
    for (const ring of state.layers) expect(ring.slots).toBe(4);
    const token = random(gpu, [1, 1, 8], 1);
    await expectConstantMemory(gpu, 12, () => model.forward(token, { state }));
    expect(() => model.forward(random(gpu, [1, 2, 8], 1), { state, from: 2 })).toThrow(/from is 2/);
    expect(() => model.forward(token, { positions: [0] })).toThrow(/positions is given without a state/);
    expect(() => Yoco.plan({ ...config, headDim: 5 })).toThrow(/headDim is 5; it must be even/);
    expect(() => Yoco.plan({ ...config, numKvHeads: 3 })).toThrow(/numHeads is 2; it must be a multiple of/);
    const other = new Yoco(config, parametersOf(gpu, Yoco.plan(config)), {});
    const less = { ...config, selfLayers: 1 };
    const small = new Yoco(less, parametersOf(gpu, Yoco.plan(less)));
    const held = small.createState({ batch: 1, maxLength: 4 });
    expect(() => other.forward(token, { state: held })).toThrow(/state has 1 lower layers/);
    held.dispose();
    state.dispose();
    model.dispose();
  });
});

describe("SLED", () => {
  const device = useGpu();
  const config: SledConfig = {
    ...block,
    layers: 1,
    decLayers: 2,
    contextSize: 8,
    windowFraction: 0.5,
    prefixLen: 2,
  };

  it("cuts windows as the paper does", () => {
    const show = (n: number): string =>
      sledWindows(n, 8, 0.5)
        .map((w) => `[${w.start},${w.end})[${w.keepStart},${w.keepEnd})`)
        .join(" ");
    expect(show(17)).toBe("[0,8)[0,6) [4,12)[6,10) [8,16)[10,14) [9,17)[14,17)");
    expect(show(8)).toBe("[0,8)[0,8)");
    for (let length = 1; length < 60; length++)
      for (const [size, fraction] of [
        [8, 0.5],
        [7, 0.3],
        [5, 1],
        [16, 0.75],
      ] as const) {
        const windows = sledWindows(length, size, fraction);
        expect(windows.map((w) => w.keepEnd - w.keepStart).reduce((a, b) => a + b)).toBe(length);
        for (const w of windows) {
          expect(w.keepStart).toBeGreaterThanOrEqual(w.start);
          expect(w.keepEnd).toBeLessThanOrEqual(w.end);
        }
      }
    expect(() => sledWindows(20, 8, 0)).toThrow(/keep nothing; raise windowFraction/);
  });

  it("decodes from a cache that holds the document's keys and values once", async () => {
    const { gpu } = device;
    const model = new Sled(config, parametersOf(gpu, Sled.plan(config)));
    const [x, y] = [random(gpu, [2, 23, 8], 3), random(gpu, [2, 7, 8], 4)];
    const mask = Array.from({ length: 46 }, (_, i) => (i < 40 ? 1 : 0));
    const keyMask = gpu.tensor(mask, [2, 23], "i32");
    const { encoded, out } = model.outputs(x, { y, keyMask });
    const context = model.contextCache(encoded, { keyMask });
    const state = model.createState({ batch: 2, maxLength: 7 });
    await expectSame(
      inPieces(gpu, y, [3, 1, 1, 2], (piece) => model.decode(piece, { context, state })),
      out,
    );
    await expectCausal(gpu, y, 4, (z) => model.forward(x, { y: z, keyMask }));
    expect(() => model.decode(y, {} as never)).toThrow(/context is missing/);
    expect(() => model.decode(y, { context, keyMask })).toThrow(/contextCache took the context's/);
    expect(() => model.decode(y, { context, positions: [1] })).toThrow(/positions are given without a state/);
    expect(() => model.encode(rows(x, 0, 2))).toThrow(/more than prefixLen, 2/);
    state.dispose();
    context.dispose();
  });
});

describe("Top-Down Transformer", () => {
  const device = useGpu();
  const config: TopDownConfig = {
    ...block,
    bottomLayers: 1,
    topLayers: 1,
    downLayers: 1,
    left: 1,
    right: 1,
    poolKernel: 4,
    poolStride: 3,
  };

  it("padding and tokens of weight 0 change no unit, and a sequence shorter than a unit works", async () => {
    const { gpu } = device;
    const model = new TopDownTransformer(config, parametersOf(gpu, TopDownTransformer.plan(config)));
    const x = random(gpu, [1, 13, 8], 3);
    const keyMask = gpu.tensor(
      Array.from({ length: 13 }, (_, i) => (i < 10 ? 1 : 0)),
      [1, 13],
      "i32",
    );
    const changed = Array.from(await x.read()).map((v, i) => (i >= 80 ? v + 1 : v));
    const a = model.forward(x, { keyMask });
    const b = model.forward(gpu.tensor(changed, [1, 13, 8]), { keyMask });
    await expectSame(rows(b, 0, 10), rows(a, 0, 10), 1e-6);
    const short = model.outputs(rows(x, 0, 2));
    expect(short.top.shape).toEqual([1, 1, 8]);
    const all = gpu.full([1, 13], 2.5);
    await expectSame(model.forward(x, { poolWeights: all }), model.forward(x));
    const none = model.forward(x, { poolWeights: gpu.zeros([1, 13]) });
    expect(Array.from(await none.read()).every(Number.isFinite)).toBe(true);
    expect(() => model.forward(x, { poolWeights: gpu.zeros([13]) })).toThrow(/poolWeights has shape \[13\]/);
    expect(() => model.forward(x, { poolWeights: gpu.zeros([1, 13], "i32") })).toThrow(/poolWeights is i32/);
  });
});
