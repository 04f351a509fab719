export {
  attention,
  attentionOutputs,
  softcapModifier,
  type AttentionLayout,
  type AttentionOptions,
  type AttentionPositions,
  type AttentionResult,
  type MaskFunction,
} from "./engine/attention.js";
export { KVCache, type KVCacheConfig } from "./kv_cache.js";
export {
  drawBlocks,
  maskMatrix,
  mix32,
  sees,
  windowOf,
  type Part,
  type Pattern,
  type PatternSize,
} from "./patterns.js";
