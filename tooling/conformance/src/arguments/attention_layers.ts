import * as attention from "@x/attention";
import type { Gpu, Tensor } from "@x/kernels";
import { component, valid } from "./calls.js";
import type { ValidCalls } from "./probe.js";

const [SEQ, DIM, LENGTH] = [3, 4, 64];
const f = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 0.5);
const i = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 1, "i32");
const x = (gpu: Gpu): Tensor => f(gpu, 1, SEQ, DIM);
const mask = (gpu: Gpu): Tensor => i(gpu, 1, SEQ);
const state = { batch: 1, maxLength: LENGTH, dtype: "f32" };
const placed = { positions: [0, 1, 2], textLength: SEQ };

const heads = { dim: DIM, numHeads: 2, headDim: 2 };
const block = { ...heads, ffnDim: 5, normEps: 1e-6 };
const mha = {
  ...heads,
  numKvHeads: 1,
  contextDim: DIM,
  causal: true,
  ...{ qkvBias: true, outBias: true, qkvClip: 8, outputGate: "element" },
  ...{ scale: 0.5, softcap: 3, window: 4, sinks: true },
  pattern: { kind: "slidingWindow", left: 2, right: 0, causal: true },
};
const mla = { dim: DIM, numHeads: 2, nopeDim: 3, ropeDim: 2, vDim: 2, kvRank: 3, qRank: 2, ropeBase: 100 };
const sled = { ...block, layers: 1, decLayers: 1, contextSize: 2, windowFraction: 0.5, prefixLen: 1 };
const topDown = {
  ...{ ...block, bottomLayers: 1, topLayers: 1, downLayers: 1 },
  ...{ left: 1, right: 1, poolKernel: 2, poolStride: 1 },
};

const context = (gpu: Gpu): unknown[] => [x(gpu), { context: x(gpu), keyMask: mask(gpu), residual: x(gpu) }];
const document = (gpu: Gpu): unknown[] => [x(gpu), { y: x(gpu), keyMask: mask(gpu) }];
const pooled = (gpu: Gpu): unknown[] => [x(gpu), { keyMask: mask(gpu), poolWeights: f(gpu, 1, SEQ) }];
const found = (gpu: Gpu): unknown[] => [
  x(gpu),
  { context: x(gpu), keyMask: mask(gpu), retrieved: i(gpu, 1, 2, SEQ, 2), residual: x(gpu) },
];
const masked = (gpu: Gpu): unknown[] => [x(gpu), { keyMask: mask(gpu) }];

const sledState = (gpu: Gpu): attention.SledState =>
  attention.Sled.init(gpu, sled).createState({ batch: 1, maxLength: LENGTH });

/** A valid call of every layer of @x/attention with softmax attention. */
export const LAYERS: ValidCalls = {
  ...component(attention.MultiHeadAttention, mha, "drawn", {
    createState: () => [{ ...state, maxChunk: 2 }],
    contextCache: masked,
    forward: (gpu) => [
      x(gpu),
      {
        state: attention.MultiHeadAttention.init(gpu, { ...heads, numKvHeads: 1 }).createState(
          state as never,
        ),
        ...placed,
        keyMask: mask(gpu),
        residual: x(gpu),
      },
    ],
    outputs: context,
  }),
  ...component(attention.MultiHeadLatentAttention, { ...mla, normEps: 1e-6, scale: 0.5 }, "drawn", {
    createState: () => [state],
    forward: (gpu) => [
      x(gpu),
      {
        state: new attention.LatentCache(gpu, { batch: 1, maxLength: LENGTH, kvRank: 3, ropeDim: 2 }),
        ...placed,
        form: "absorbed",
        residual: x(gpu),
      },
    ],
    outputs: (gpu) => [x(gpu), { form: "expanded", residual: x(gpu) }],
  }),
  ...component(
    attention.LongformerAttention,
    { ...heads, left: 1, right: 1, dilation: 2, bias: true },
    "drawn",
    {
      forward: (gpu) => [x(gpu), { keyMask: mask(gpu), globalTokens: [[0, 2]] }],
    },
  ),
  ...component(
    attention.LongT5Attention,
    { ...heads, radius: 1, globalBlock: 2, numBuckets: 8, maxDistance: 16, normEps: 1e-6 },
    "drawn",
    { forward: masked },
  ),
  ...component(attention.TopDownTransformer, topDown, "drawn", { forward: pooled, outputs: pooled }),
  ...component(attention.Sled, sled, "drawn", {
    encode: masked,
    contextCache: masked,
    createState: () => [state],
    decode: (gpu) => [
      x(gpu),
      { context: x(gpu), keyMask: mask(gpu), state: sledState(gpu), positions: [0, 1, 2] },
    ],
    forward: document,
    outputs: document,
  }),
  sledWindows: () => valid(attention.sledWindows, 17, 8, 0.5),
  ...component(attention.UnlimiformerAttention, { ...heads, topK: 2, bias: true }, "drawn", {
    queries: (gpu) => [x(gpu)],
    forward: found,
    outputs: found,
  }),
};
