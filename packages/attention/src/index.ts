export { attention, attentionOutputs } from "./engine/attention.js";
export { attentionScores, attentionWeights } from "./engine/weights.js";
export {
  softcapModifier,
  type AttentionLayout,
  type AttentionOptions,
  type AttentionPositions,
  type AttentionResult,
  type AttentionWeightsOptions,
  type MaskFunction,
} from "./engine/options.js";
export { KVCache, type KVCacheConfig } from "./cache/kv_cache.js";
export { LatentCache, type LatentCacheConfig } from "./cache/latent_cache.js";
export type { TextRotation, TokenPositions } from "./cache/slots.js";
export { cachedAttention, type CachedAttentionOptions } from "./cache/cached_attention.js";
export { mergeAttention, type AttentionPart } from "./engine/merge.js";
export { gatheredAttention } from "./retrieval/gathered_attention.js";
export { topkSearch, type SearchResult, type TopkSearchOptions } from "./retrieval/topk_search.js";
export {
  ApproximateIndex,
  ExactIndex,
  type MemoryIndex,
  type VectorIndex,
} from "./retrieval/memory_index.js";
export type { Parts, RmsNorm, Rope } from "./block/parts.js";
export type { BlockConfig } from "./block/block.js";
export {
  MultiHeadAttention,
  type AttentionParts,
  type ContextCache,
  type MultiHeadAttentionConfig,
  type MultiHeadAttentionOptions,
} from "./heads/multi_head_attention.js";
export {
  MultiHeadLatentAttention,
  type MlaConfig,
  type MlaOptions,
  type MlaOutputs,
  type MlaParts,
} from "./heads/mla.js";
export type {
  AttentionPosition,
  HeadNorm,
  JoinedNorm,
  PositionContext,
  Rotary,
  ScoreRange,
  ScoreTerms,
} from "./heads/parts.js";
export {
  TransformerXlAttention,
  type TransformerXlAttentionConfig,
  type TransformerXlAttentionOptions,
} from "./recurrence/transformer_xl.js";
export {
  TransformerXl,
  TransformerXlState,
  type TransformerXlConfig,
  type TransformerXlOptions,
  type TransformerXlOutputOptions,
} from "./recurrence/transformer_xl_stack.js";
export {
  RecurrentMemoryTransformer,
  type RmtConfig,
  type RmtOptions,
  type RmtOutputOptions,
} from "./recurrence/rmt.js";
export { RmtState } from "./recurrence/rmt_state.js";
export { TopDownTransformer, type TopDownConfig, type TopDownOptions } from "./hierarchy/top_down.js";
export {
  Sled,
  sledWindows,
  type SledConfig,
  type SledContext,
  type SledDecodeOptions,
  type SledOptions,
  type SledState,
  type SledWindow,
} from "./hierarchy/sled.js";
export { Yoco, YocoCache, type YocoConfig, type YocoOptions, type YocoOutputs } from "./hierarchy/yoco.js";
export {
  YocoCrossAttention,
  YocoKeyValues,
  type YocoCrossAttentionConfig,
  type YocoCrossAttentionOptions,
  type YocoKeyValuesConfig,
  type YocoKeyValuesOptions,
} from "./hierarchy/yoco_cross.js";
export {
  MemorizingAttention,
  type MemorizingConfig,
  type MemorizingOptions,
  type MemorizingOutputOptions,
} from "./retrieval/memorizing.js";
export { MemorizingState, type KnnMemory } from "./retrieval/memorizing_state.js";
export {
  UnlimiformerAttention,
  type UnlimiformerConfig,
  type UnlimiformerOptions,
} from "./retrieval/unlimiformer.js";
export { LongformerAttention, type LongformerConfig, type LongformerOptions } from "./sparse/longformer.js";
export { LongT5Attention, type LongT5Config, type LongT5Options } from "./sparse/longt5.js";
export { longNetAttention, type LongNetOptions } from "./sparse/longnet.js";
export {
  bigBird,
  blockLocal,
  causal,
  checkDecodable,
  dilatedSegment,
  dilatedWindow,
  drawBlocks,
  full,
  globalTokens,
  maskMatrix,
  mix32,
  Pattern,
  pattern,
  perHead,
  randomBlocks,
  sink,
  slidingWindow,
  sparseFixed,
  sparseStrided,
  windowOf,
  type Part,
  type PatternConfig,
  type PatternSize,
  type PictureOptions,
} from "./patterns/index.js";
export * from "./sequence/index.js";
