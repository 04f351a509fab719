import { describe, expect, it } from "vitest";
import { ConfigError } from "@x/kernels";
import {
  LongformerAttention,
  LongT5Attention,
  MemorizingAttention,
  MultiHeadAttention,
  MultiHeadLatentAttention,
  RecurrentMemoryTransformer,
  Sled,
  TopDownTransformer,
  TransformerXl,
  TransformerXlAttention,
  UnlimiformerAttention,
  Yoco,
  YocoCrossAttention,
} from "./index.js";

const heads = { dim: 16, numHeads: 2, headDim: 8 };
const block = { ...heads, ffnDim: 8, normEps: 1e-6 };

/** A configuration of each module with every key that it knows. */
const modules: readonly (readonly [{ plan(config: never): object }, Record<string, unknown>])[] = [
  [
    MultiHeadAttention,
    {
      ...heads,
      contextDim: 16,
      numKvHeads: 1,
      causal: true,
      qkvBias: true,
      outBias: true,
      qkvClip: 2,
      outputGate: "head",
      scale: 1,
      softcap: 3,
      window: 4,
      pattern: { kind: "sink", count: 2 },
      sinks: true,
    },
  ],
  [
    MultiHeadLatentAttention,
    {
      dim: 16,
      numHeads: 2,
      nopeDim: 8,
      ropeDim: 4,
      vDim: 6,
      kvRank: 8,
      qRank: 5,
      ropeBase: 1e4,
      normEps: 1e-6,
      bias: true,
      scale: 1,
    },
  ],
  [LongformerAttention, { ...heads, left: 2, right: 2, dilation: 1, bias: true }],
  [LongT5Attention, { ...heads, radius: 2, globalBlock: 3, numBuckets: 32, maxDistance: 128, normEps: 1e-6 }],
  [TransformerXlAttention, { ...heads, clampLen: 4, segmentLen: 3, memLen: 4 }],
  [TransformerXl, { ...heads, clampLen: 4, layers: 2, ffnDim: 8, segmentLen: 3, memLen: 4 }],
  [
    RecurrentMemoryTransformer,
    {
      ...block,
      layers: 1,
      segmentLen: 3,
      memTokens: 2,
      mode: "decoder",
      memoryCausal: true,
      writeInit: "learned",
      detachEvery: 1,
    },
  ],
  [
    TopDownTransformer,
    {
      ...block,
      bottomLayers: 1,
      topLayers: 1,
      downLayers: 1,
      left: 2,
      right: 2,
      poolKernel: 3,
      poolStride: 2,
    },
  ],
  [Sled, { ...block, layers: 1, decLayers: 1, contextSize: 4, windowFraction: 0.5, prefixLen: 1 }],
  [Yoco, { ...block, numKvHeads: 1, selfLayers: 1, crossLayers: 1, window: 3, ropeBase: 1e4 }],
  [
    MemorizingAttention,
    { ...heads, numKvHeads: 1, topK: 2, combine: "gate", segmentLen: 3, memorySize: 4, qkNorm: true },
  ],
  [YocoCrossAttention, { ...heads, numKvHeads: 1 }],
  [UnlimiformerAttention, { ...heads, topK: 2, bias: true }],
];

describe("configurations", () => {
  it.each(modules)(
    "%o refuses, by name, every value of a wrong kind and keys it does not know",
    (module, config) => {
      const plan = (more: Record<string, unknown>) => (): object =>
        module.plan({ ...config, ...more } as never);
      expect(plan({})).not.toThrow();
      for (const [key, value] of Object.entries(config))
        for (const wrong of typeof value === "number" ? ["3", NaN, -2, Infinity] : ["nope", 3, {}]) {
          if (key === "scale" && wrong === -2) continue;
          expect(plan({ [key]: wrong })).toThrow(ConfigError);
          expect(plan({ [key]: wrong })).toThrow(new RegExp(`\\b${key}\\b`));
        }
      expect(plan({ numHaeds: 2 })).toThrow(/unknown key "numHaeds"; did you mean "numHeads"/);
    },
  );
});
