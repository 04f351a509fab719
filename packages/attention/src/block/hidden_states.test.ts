import { describe, expect, it } from "vitest";
import { ConfigError, type Gpu, type Tensor } from "@x/kernels";
import { numbers, useGpu } from "@x/testing";
import {
  longNetAttention,
  MemorizingAttention,
  MultiHeadLatentAttention,
  RecurrentMemoryTransformer,
  TransformerXlAttention,
  Yoco,
} from "../index.js";
import { parametersOf, random } from "../test-support.js";

const [dim, numHeads, headDim] = [8, 2, 4];

/** A layer with a memory of the tokens before: one more call, and forgetting all of them. */
interface Remembering {
  step(x: Tensor): Tensor;
  clear(): void;
}

function remembering<S extends { clear(): void }>(
  state: S,
  step: (x: Tensor, options: { readonly state: S }) => Tensor,
): Remembering {
  return {
    step: (x) => step(x, { state }),
    clear: () => {
      state.clear();
    },
  };
}

const SIZE = { batch: 1, maxLength: 16 };
const CHUNKED = { ...SIZE, maxChunk: 4 };

const LAYERS: Readonly<Record<string, (gpu: Gpu) => Remembering>> = {
  MultiHeadLatentAttention: (gpu) => {
    const config = { dim, numHeads, nopeDim: 4, ropeDim: 4, vDim: 4, kvRank: 6 };
    const parameters = parametersOf(gpu, MultiHeadLatentAttention.plan(config));
    const layer = new MultiHeadLatentAttention(config, parameters);
    return remembering(layer.createState(SIZE), (x, options) => layer.forward(x, options));
  },
  Yoco: (gpu) => {
    const config = {
      dim,
      numHeads,
      headDim,
      ffnDim: 12,
      numKvHeads: 1,
      selfLayers: 1,
      crossLayers: 1,
      window: 4,
    };
    const model = new Yoco(config, parametersOf(gpu, Yoco.plan(config)));
    return remembering(model.createState(CHUNKED), (x, options) => model.forward(x, options));
  },
  MemorizingAttention: (gpu) => {
    const config = {
      dim,
      numHeads,
      headDim,
      combine: "gate",
      segmentLen: 4,
      topK: 2,
      memorySize: 9,
    } as const;
    const layer = new MemorizingAttention(config, parametersOf(gpu, MemorizingAttention.plan(config)));
    return remembering(layer.createState({ batch: 1 }), (x, options) => layer.forward(x, options));
  },
  RecurrentMemoryTransformer: (gpu) => {
    const config = {
      dim,
      numHeads,
      headDim,
      ffnDim: 12,
      layers: 1,
      segmentLen: 4,
      memTokens: 2,
      mode: "decoder",
    } as const;
    const parameters = parametersOf(gpu, RecurrentMemoryTransformer.plan(config));
    const model = new RecurrentMemoryTransformer(config, parameters);
    return remembering(model.createState({ batch: 1 }), (x, options) => model.forward(x, options));
  },
  TransformerXlAttention: (gpu) => {
    const config = { dim, numHeads, headDim, segmentLen: 4, memLen: 4 };
    const parameters = parametersOf(gpu, TransformerXlAttention.plan(config));
    const layer = new TransformerXlAttention(config, parameters);
    return remembering(layer.createState(CHUNKED), (x, options) => layer.forward(x, options));
  },
};

describe("a memory that held NaN and infinity", () => {
  const device = useGpu();

  it.each(Object.keys(LAYERS))("%s: gives what an empty one gives, once it is cleared", async (name) => {
    const { gpu } = device;
    const x = random(gpu, [1, 3, dim], 3);
    const fresh = Array.from(await LAYERS[name]!(gpu).step(x).read());
    expect(fresh.every(Number.isFinite)).toBe(true);
    for (const bad of [NaN, Infinity]) {
      const used = LAYERS[name]!(gpu);
      for (let n = 0; n < 4; n++) used.step(gpu.full([1, 2, dim], bad));
      used.clear();
      expect(Array.from(await used.step(x).read()), String(bad)).toEqual(fresh);
    }
  });
});

describe("LongNet", () => {
  const device = useGpu();

  it("a key of a later token or of another segment that is NaN does not reach a query", async () => {
    const { gpu } = device;
    const [seq, from] = [16, 8];
    const rows = (seed: number, bad?: number): Tensor =>
      gpu.tensor(
        numbers(seq * headDim, seed).map((v, n) => (bad !== undefined && n >= from * headDim ? bad : v)),
        [1, 1, seq, headDim],
      );
    const run = async (bad?: number): Promise<number[]> => {
      const out = longNetAttention(rows(1), rows(2, bad), rows(3, bad), {
        segmentLengths: [4, 16],
        dilations: [1, 2],
        causal: true,
      });
      return Array.from((await out.read()).slice(0, from * headDim));
    };
    const clean = await run();
    expect(await run(NaN)).toEqual(clean);
    expect(await run(Infinity)).toEqual(clean);
    expect(() => longNetAttention(rows(1), rows(2), rows(3), { segmentLengths: [4], dilations: [] })).toThrow(
      ConfigError,
    );
  });
});
