import { randomNormal, type Gpu, type Tensor } from "@x/kernels";
import * as attention from "@x/attention";
import * as ffn from "@x/ffn";
import * as moe from "@x/moe";
import * as norm from "@x/norm";
import * as positional from "@x/positional";
import type { AnyComponentClass, ContractCase } from "./contract.js";

const dim = 8;
const experts = { dim, hiddenDim: 4, numExperts: 4 };
const kan = { inFeatures: dim, outFeatures: 4 };
const stateful = { state: { batch: 1 } };
const growing = { state: { batch: 1, maxLength: 16 } };
const mla = { dim, numHeads: 2, nopeDim: 4, ropeDim: 2, vDim: 4, kvRank: 6 };
const heads = (gpu: Gpu): Tensor => randomNormal(gpu, [1, 2, 6, 4], { seed: 3 });
const mha = { dim, numHeads: 2, headDim: 4 };
const block = { ...mha, ffnDim: 12 };
const context = (gpu: Gpu): Tensor => randomNormal(gpu, [1, 9, dim], { seed: 4 });
const turned = {
  x: heads,
  call: ((method, x) => method("apply")(x) as Tensor) satisfies ContractCase["call"],
};
const delta = { dim, numKeyHeads: 2, numValueHeads: 4, keyDim: 4, valueDim: 4 };
const segments = { dim, numHeads: 2, segmentLen: 3, memLen: 2 };
const rmt = { ...block, layers: 2, segmentLen: 4, memTokens: 2 };
const memorizing = { dim, numHeads: 2, numKvHeads: 1, topK: 2, segmentLen: 2 };
const sharedKeys = (gpu: Gpu): Tensor => randomNormal(gpu, [1, 6, 1, 4], { seed: 4 });
const peer = { dim, numKeys: 4, numHeads: 2, topK: 2, queryDim: 8 };
const c = (of: unknown, config: object, more: Omit<ContractCase, "of" | "config"> = {}): ContractCase => ({
  of: of as AnyComponentClass,
  config,
  ...more,
});

/** Every component class, each in the forms that differ in their parameters. */
export const CONTRACT: Readonly<Record<string, readonly ContractCase[]>> = {
  "@x/norm": [
    c(norm.RMSNorm, { dim }),
    c(norm.RMSNorm, { dim, bias: true }),
    c(norm.GemmaRMSNorm, { dim }),
    c(norm.PartialRMSNorm, { dim, p: 0.5 }),
    c(norm.ScaleNorm, { dim }),
    c(norm.LayerNorm, { dim }),
    c(norm.GroupNorm, { dim: 6, numGroups: 2 }),
    c(norm.BatchNorm, { dim }, { options: () => ({ training: false }) }),
    c(norm.QKNorm, { kind: "rms", headDim: 4, numHeads: 6 }, { x: heads }),
    c(norm.QKNorm, { kind: "layer", scope: "each", headDim: 4, numHeads: 6 }, { x: heads }),
    c(norm.QKNorm, { kind: "l2", g: "head", headDim: 4, numHeads: 6 }, { x: heads }),
  ],
  "@x/ffn": [
    c(ffn.FeedForward, { dim }),
    c(ffn.FeedForward, { dim, bias: false }),
    c(ffn.GatedFeedForward, { dim }),
    c(ffn.GatedFeedForward, { dim, bias: true, beta: 1.702, limit: 7, upOffset: 1 }),
    c(
      ffn.GatedFeedForward,
      { dim, hiddenDim: 16, bias: true },
      {
        parts: (gpu) => ({ ffn_layernorm: norm.RMSNorm.init(gpu, { dim: 16 }) }),
      },
    ),
    c(ffn.KanLinear, kan),
    c(ffn.ChebyshevKanLinear, { ...kan, degree: 3 }),
    c(ffn.FastKanLinear, { ...kan, numGrids: 4 }),
    c(ffn.FastKanLinear, { ...kan, layerNorm: false, base: false }),
    c(ffn.FourierKanLinear, { ...kan, gridSize: 3 }),
    c(ffn.WaveletKanLinear, { ...kan, batchNorm: true }),
    ...["bspline", "wavelet"].map((basis) => c(ffn.KanFeedForward, { dim, basis })),
    c(ffn.KanFeedForward, { dim, basis: "chebyshev", degree: 3 }),
  ],
  "@x/moe": [
    c(moe.MixtralMoe, experts),
    c(moe.MixtralMoe, { ...experts, expertBias: true, beta: 1.702, limit: 7, upOffset: 1 }),
    c(moe.GptOssMoe, { ...experts, topK: 2 }),
    c(moe.Qwen2Moe, experts),
    c(moe.Qwen2Moe, { ...experts, normTopkProb: false, sharedDim: 6 }),
    c(moe.SwitchMoe, experts),
    c(moe.SwitchMoe, { ...experts, expertKind: "ffn", expertBias: true }),
    c(moe.GShardMoe, experts),
    c(moe.ExpertChoiceMoe, experts),
    c(moe.DeepSeekMoe, { ...experts, numShared: 1, correctionBias: true }),
    c(moe.Peer, peer),
    c(moe.Peer, { ...peer, queryNorm: "batch", keysPerHead: true }),
  ],
  "@x/positional": [
    c(positional.LearnedAbsolute, { dim, maxPositions: 16 }),
    c(positional.SinusoidalEmbedding, { dim }),
    c(
      positional.ShawRelative,
      { headDim: 4, maxDistance: 3 },
      {
        x: heads,
        call: (method, x) => (method("modifiers")(x, 0.5) as { tensor: Tensor }[])[0]!.tensor,
      },
    ),
    c(
      positional.T5Bias,
      { numHeads: 2, bidirectional: false },
      {
        call: (method) => (method("modifier")() as { tensor: Tensor }).tensor,
      },
    ),
    c(positional.RotaryEmbedding, { headDim: 4 }, turned),
    c(positional.LearnedRope, { headDim: 4 }, turned),
    c(
      positional.Xpos,
      { headDim: 4 },
      { x: heads, call: (method, x) => method("apply")(x, "key") as Tensor },
    ),
    c(
      positional.DebertaDisentangled,
      { numHeads: 2, headDim: 4, modelDim: dim, maxDistance: 4, posQueryBias: true },
      {
        x: heads,
        call: (method, x) =>
          (method("prepare")(x, x) as { modifiers: { tensor: Tensor }[] }).modifiers[0]!.tensor,
      },
    ),
    c(
      positional.TransformerXlRelative,
      { numHeads: 2, headDim: 4, modelDim: dim },
      {
        x: heads,
        call: (method, x) =>
          (
            method("prepare")(x, { minDistance: 0, maxDistance: 5, scale: 0.5 }) as {
              modifier: { tensor: Tensor };
            }
          ).modifier.tensor,
      },
    ),
  ],
  "@x/attention": [
    c(attention.MultiHeadAttention, { dim, numHeads: 2, causal: true }, growing),
    c(
      attention.MultiHeadAttention,
      { dim, numHeads: 2, numKvHeads: 1, qkvBias: true, outBias: true, causal: true, window: 3, sinks: true },
      growing,
    ),
    c(
      attention.MultiHeadAttention,
      { dim, numHeads: 2, qkvBias: true, qkvClip: 0.5, outputGate: "head", causal: true },
      {
        ...growing,
        parts: (gpu) => ({
          q_norm: norm.QKNorm.init(gpu, { kind: "l2", g: "one", headDim: 4, numHeads: 2 }),
          k_norm: norm.QKNorm.init(gpu, { kind: "l2", headDim: 4, numHeads: 2 }),
          inner_attn_ln: norm.RMSNorm.init(gpu, { dim }),
          rope: new positional.RotaryEmbedding({ headDim: 4 }),
        }),
      },
    ),
    c(attention.MultiHeadLatentAttention, mla, growing),
    c(attention.MultiHeadLatentAttention, { ...mla, qRank: 4, bias: true }, growing),
    c(attention.LongformerAttention, { ...mha, left: 1, right: 2, dilation: [1, 2], bias: true }),
    c(attention.LongT5Attention, { ...mha, radius: 2 }),
    c(attention.LongT5Attention, { ...mha, radius: 2, globalBlock: 3 }),
    c(attention.TopDownTransformer, {
      ...block,
      ...{ bottomLayers: 1, topLayers: 1, downLayers: 1, left: 1, right: 1, poolKernel: 3, poolStride: 2 },
    }),
    c(
      attention.Sled,
      { ...block, layers: 1, decLayers: 2, contextSize: 4, windowFraction: 0.5, prefixLen: 1 },
      {
        ...growing,
        call: (method, x, gpu, state) =>
          method("decode")(x, { context: method("encode")(context(gpu)), ...state }) as Tensor,
      },
    ),
    c(
      attention.UnlimiformerAttention,
      { ...mha, topK: 3, bias: true },
      { options: (gpu) => ({ context: context(gpu) }) },
    ),
    c(attention.TransformerXlAttention, segments, growing),
    c(attention.TransformerXl, { ...segments, ffnDim: 12, layers: 2 }, growing),
    c(attention.RecurrentMemoryTransformer, rmt, stateful),
    c(attention.RecurrentMemoryTransformer, { ...rmt, writeInit: "learned", memoryCausal: true }, stateful),
    c(attention.MemorizingAttention, memorizing, stateful),
    c(attention.MemorizingAttention, { ...memorizing, combine: "joint", qkNorm: true }, stateful),
    c(attention.Yoco, { ...block, numKvHeads: 1, selfLayers: 1, crossLayers: 2, window: 3 }, growing),
    c(
      attention.YocoKeyValues,
      { dim, numKvHeads: 1, headDim: 4 },
      { call: (method, x) => (method("outputs")(x) as { keys: Tensor }).keys },
    ),
    c(
      attention.YocoCrossAttention,
      { dim, numHeads: 2, numKvHeads: 1 },
      { options: (gpu) => ({ keys: sharedKeys(gpu), values: sharedKeys(gpu) }) },
    ),
    c(attention.Lru, { dim, stateSize: 6 }, stateful),
    c(attention.S4d, { dim, stateSize: 6 }, stateful),
    c(attention.S5, { dim, stateSize: 6 }, stateful),
    c(attention.H3, { dim, headDim: 2, stateSize: 4 }, stateful),
    c(attention.GatedLongConv, { dim, taps: 6 }, stateful),
    c(attention.GriffinBlock, { dim, lruWidth: 8, numBlocks: 2 }, stateful),
    c(attention.GriffinBlock, { dim, wholeFirst: true }, stateful),
    c(attention.MambaBlock, { dim }, stateful),
    c(attention.Mamba2Block, { dim, numHeads: 2 }, stateful),
    c(attention.Mamba2Block, { dim, numHeads: 2, bias: true, convBias: false }, stateful),
    c(attention.GatedDeltaNet, delta, stateful),
    c(attention.GatedDeltaNet, { ...delta, projections: "byKeyHead", convBias: true }, stateful),
    c(attention.Rwkv4TimeMix, { dim }, stateful),
    c(attention.Rwkv4ChannelMix, { dim }, stateful),
    c(attention.Rwkv6TimeMix, { dim, numHeads: 2 }, stateful),
    c(attention.LinearAttention, { dim, numHeads: 2 }, stateful),
    c(attention.MultiScaleRetention, { dim, numHeads: 2 }, stateful),
    c(attention.GatedRetention, { dim, numHeads: 2 }, stateful),
  ],
};
