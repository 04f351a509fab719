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
