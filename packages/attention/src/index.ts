export { attention, attentionOutputs } from "./engine/attention.js";
export { attentionScores, attentionWeights, type AttentionWeightsOptions } from "./engine/weights.js";
export {
  softcapModifier,
  type AttentionLayout,
  type AttentionOptions,
  type AttentionPositions,
  type AttentionResult,
  type MaskFunction,
} from "./engine/options.js";
export { KVCache, type KVCacheConfig } from "./kv_cache.js";
export { LatentCache, type LatentCacheConfig } from "./latent_cache.js";
export type { TokenPositions } from "./slots.js";
export { cachedAttention, type CachedAttentionOptions } from "./cached_attention.js";
export { mergeAttention, type AttentionPart } from "./merge.js";
export { gatheredAttention } from "./gathered_attention.js";
export { topkSearch, type SearchResult, type TopkSearchOptions } from "./topk_search.js";
export { ApproximateIndex, ExactIndex, type MemoryIndex, type VectorIndex } from "./memory_index.js";
export type { Draw, InitOptions, ParameterPlan, Plan } from "./parameters.js";
export type { Parts, RmsNorm, Rope } from "./parts.js";
export type { BlockConfig } from "./block.js";
export {
  MultiHeadAttention,
  type AttentionHooks,
  type ContextCache,
  type MultiHeadAttentionConfig,
  type MultiHeadAttentionOptions,
  type PositionContext,
} from "./multi_head_attention.js";
export { MultiHeadLatentAttention, type MlaConfig, type MlaOptions, type MlaOutputs } from "./mla.js";
export {
  TransformerXlAttention,
  type SegmentOptions,
  type TransformerXlAttentionConfig,
  type TransformerXlAttentionOptions,
  type TransformerXlCache,
} from "./transformer_xl.js";
export { TransformerXl, type TransformerXlConfig } from "./transformer_xl_stack.js";
export { RecurrentMemoryTransformer, type RmtConfig, type RmtOptions } from "./rmt.js";
export { RmtState } from "./rmt_state.js";
export { TopDownTransformer, type TopDownConfig, type TopDownOptions } from "./top_down.js";
export { Sled, sledWindows, type SledCache, type SledConfig, type SledWindow } from "./sled.js";
export {
  Yoco,
  YocoCache,
  type YocoCacheOptions,
  type YocoConfig,
  type YocoOptions,
  type YocoOutputs,
} from "./yoco.js";
export {
  MemorizingAttention,
  type KnnMemory,
  type MemorizingConfig,
  type MemorizingOptions,
} from "./memorizing.js";
export { MemorizingState } from "./memorizing_state.js";
export { UnlimiformerAttention, type UnlimiformerConfig, type UnlimiformerOptions } from "./unlimiformer.js";
export { LongformerAttention, type LongformerConfig, type LongformerOptions } from "./longformer.js";
export { LongT5Attention, relativeBucket, type LongT5Config } from "./longt5.js";
export { longNetAttention, type LongNetOptions } from "./longnet.js";
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
