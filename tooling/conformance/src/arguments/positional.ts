import type { Gpu, Tensor } from "@x/kernels";
import * as positional from "@x/positional";
import { component, valid } from "./calls.js";
import type { ValidCalls } from "./probe.js";

const x = (gpu: Gpu): Tensor => gpu.full([1, 3, 4], 0.5);
/** Queries or keys: [batch, heads, seq, headDim]. */
const heads = (gpu: Gpu): Tensor => gpu.full([1, 2, 3, 4], 0.5);
const table = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 0.5);
const positions = [0, 1, 2];

const buckets = { numBuckets: 8, maxDistance: 16, bidirectional: true };
const deberta = { maxDistance: 8, positionBuckets: 4, p2cIndex: "queryMinusKey" };
const sinusoid = { dim: 4, base: 10000, layout: "interleaved", denominator: "dim" };
const rope = { headDim: 4, rotaryDim: 4, base: 10000, layout: "half" };

/** A valid call of every export of @x/positional. */
export const POSITIONAL: ValidCalls = {
  alibiSlopes: () => valid(positional.alibiSlopes, 4, { maxBias: 4 }),
  alibi: (gpu) => valid(positional.alibi, gpu, 4, { maxBias: 4 }),
  t5Buckets: () => valid(positional.t5Buckets, buckets),
  t5Index: () => valid(positional.t5Index, buckets),
  t5Bias: (gpu) =>
    valid(positional.t5Bias, table(gpu, 8, 2), positional.t5Index({ numBuckets: 8, bidirectional: true })),
  ...component(positional.T5Bias, { numHeads: 2, ...buckets }, (gpu) => ({ weight: table(gpu, 8, 2) }), {
    modifier: () => [],
  }),
  learnedAbsolute: (gpu) =>
    valid(positional.learnedAbsolute, x(gpu), { weight: table(gpu, 8, 4), positionOffset: 1 }),
  ...component(
    positional.LearnedAbsolute,
    { dim: 4, maxPositions: 8 },
    (gpu) => ({ weight: table(gpu, 8, 4) }),
    {
      forward: (gpu) => [x(gpu), { positions }],
    },
  ),
  sinusoidalTable: () => valid(positional.sinusoidalTable, positions, sinusoid),
  sinusoidal: (gpu) =>
    valid(positional.sinusoidal, x(gpu), {
      base: 10000,
      layout: "interleaved",
      denominator: "dim",
      inputScale: 2,
      positionOffset: 1,
    }),
  ...component(positional.SinusoidalEmbedding, { ...sinusoid, inputScale: 2 }, () => ({}), {
    forward: (gpu) => [x(gpu), { positionOffset: 1 }],
  }),
  shawIndex: () => valid(positional.shawIndex, 2),
  shawKeys: (gpu) =>
    valid(positional.shawKeys, heads(gpu), {
      relKey: table(gpu, 5, 4),
      index: positional.shawIndex(2),
      scale: 0.5,
    }),
  shawValues: (gpu) =>
    valid(positional.shawValues, heads(gpu), {
      weightSums: table(gpu, 1, 2, 3, 5),
      relValue: table(gpu, 5, 4),
    }),
  ...component(
    positional.ShawRelative,
    { headDim: 4, maxDistance: 2, useKey: true, useValue: true },
    (gpu) => ({ relKey: table(gpu, 5, 4), relValue: table(gpu, 5, 4) }),
    { modifiers: (gpu) => [heads(gpu), 0.5], output: (gpu) => [heads(gpu), table(gpu, 1, 2, 3, 5)] },
  ),
  debertaBucket: () => valid(positional.debertaBucket, deberta),
  debertaIndices: () => valid(positional.debertaIndices, deberta),
  debertaDisentangled: (gpu) =>
    valid(positional.debertaDisentangled, heads(gpu), heads(gpu), {
      ...deberta,
      relEmbedding: table(gpu, 8, 6),
      posKeyWeight: table(gpu, 8, 6),
      posQueryWeight: table(gpu, 8, 6),
    }),
  ...component(
    positional.DebertaDisentangled,
    { numHeads: 2, headDim: 4, modelDim: 6, ...deberta },
    (gpu) =>
      positional.DebertaDisentangled.init(gpu, {
        numHeads: 2,
        headDim: 4,
        modelDim: 6,
        maxDistance: 8,
        positionBuckets: 4,
      }).parameters(),
    { prepare: (gpu) => [heads(gpu), heads(gpu)] },
  ),
  transformerXlRelative: (gpu) =>
    valid(positional.transformerXlRelative, heads(gpu), {
      modelDim: 6,
      base: 10000,
      clampLength: 4,
      minDistance: 0,
      maxDistance: 3,
      scale: 0.5,
      relProj: table(gpu, 8, 6),
      contentBias: table(gpu, 2, 4),
      positionBias: table(gpu, 2, 4),
    }),
  ...component(
    positional.TransformerXlRelative,
    { numHeads: 2, headDim: 4, modelDim: 6 },
    (gpu) =>
      positional.TransformerXlRelative.init(gpu, { numHeads: 2, headDim: 4, modelDim: 6 }).parameters(),
    { prepare: (gpu) => [heads(gpu), { minDistance: 0, maxDistance: 3, scale: 0.5 }] },
  ),
  plainFrequencies: () => valid(positional.plainFrequencies, { d: 4, base: 10000 }),
  ropeFrequencies: () =>
    valid(positional.ropeFrequencies, { ...rope, scaling: { type: "linear", factor: 2 } }, 8),
  // A model's config.json: its other keys are not RoPE's, and null is absent.
  ropeFromHuggingFace: () => ({
    ...valid(positional.ropeFromHuggingFace, { head_dim: 4, rope_theta: 10000, max_position_embeddings: 64 }),
    open: { "0.head_dims": "a key that is not RoPE's" },
    takes: { "0.rope_theta": [null], "0.max_position_embeddings": [null] },
  }),
  ropeLayerTypes: () => ({
    ...valid(positional.ropeLayerTypes, { rope_local_base_freq: 10000, rope_theta: 1e6 }),
    open: { "0.rope_local_base_freqs": "a key that is not RoPE's" },
    takes: { "0.rope_local_base_freq": [null], "0.rope_theta": [null] },
  }),
  yarnMscale: () => valid(positional.yarnMscale, 4, 1),
  learnedRope: (gpu) =>
    valid(positional.learnedRope, heads(gpu), { invFreq: table(gpu, 2), positions, layout: "half" }),
  ...component(positional.LearnedRope, rope, (gpu) => ({ inv_freq: table(gpu, 2) }), {
    apply: (gpu) => [heads(gpu), { positions }],
  }),
  ...component(positional.RotaryEmbedding, rope, () => ({}), {
    frequencies: () => [8],
    changes: () => [4, 8],
    apply: (gpu) => [heads(gpu), { positions, seqLen: 8 }],
    applyQK: (gpu) => [heads(gpu), heads(gpu), { positions, seqLen: 8 }],
  }),
  ...component(positional.Xpos, { ...rope, scaleBase: 512, gamma: 0.4 }, () => ({}), {
    scales: () => [positions, 2],
    apply: (gpu) => [heads(gpu), "key", { positions, center: 1, layout: "bhsd" }],
  }),
  rotate: (gpu) => valid(positional.rotate, heads(gpu), { cos: table(gpu, 3, 2), sin: table(gpu, 3, 2) }),
};
