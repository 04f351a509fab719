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

const LAYERS: Readonly<Record<string, (gpu: Gpu) => Remembering>> = {
  MultiHeadLatentAttention: (gpu) => {
    const config = { dim, numHeads, nopeDim: 4, ropeDim: 4, vDim: 4, kvRank: 6 };
    const layer = new MultiHeadLatentAttention(
      config,
      parametersOf(gpu, MultiHeadLatentAttention.plan(config)),
    );
    const cache = layer.createState({ batch: 1, maxLength: 16 });
    return {
      step: (x) => layer.forward(x, { state: cache }),
      clear: () => {
        cache.clear();
      },
    };
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
    const model = new Yoco(gpu, config, parametersOf(gpu, Yoco.plan(config)));
    const cache = model.createCache(gpu, { batch: 1, maxLength: 16, maxChunk: 4 });
    return {
      step: (x) => model.forward(x, { cache }),
      clear: () => {
        cache.clear();
      },
    };
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
    return layer.createState(gpu, { batch: 1 });
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
    const model = new RecurrentMemoryTransformer(
      config,
      parametersOf(gpu, RecurrentMemoryTransformer.plan(config)),
    );
    return model.createState(gpu, { batch: 1 });
  },
  TransformerXlAttention: (gpu) => {
    const config = { dim, numHeads, headDim };
    const layer = new TransformerXlAttention(config, parametersOf(gpu, TransformerXlAttention.plan(config)));
    const cache = layer.createCache(gpu, { batch: 1, maxLength: 16, maxChunk: 4, segmentLen: 4, memLen: 4 });
    return {
      step: (x) => layer.forward(x, { cache }),
      clear: () => {
        cache.cache.clear();
      },
    };
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
