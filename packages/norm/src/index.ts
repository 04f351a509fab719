export { rmsNorm, RMSNorm, type RMSNormConfig, type RMSNormOptions } from "./rmsnorm.js";
export {
  gemmaRmsNorm,
  GemmaRMSNorm,
  type GemmaRMSNormConfig,
  type GemmaRMSNormOptions,
} from "./gemma_rmsnorm.js";
export { layerNorm, LayerNorm, type LayerNormConfig, type LayerNormOptions } from "./layernorm.js";
export {
  PartialRMSNorm,
  partialRmsNorm,
  type PartialRMSNormConfig,
  type PartialRMSNormOptions,
} from "./partial_rmsnorm.js";
export {
  l2Normalize,
  ScaleNorm,
  scaleNorm,
  type L2NormalizeOptions,
  type ScaleNormConfig,
  type ScaleNormOptions,
} from "./scalenorm.js";
export { GroupNorm, groupNorm, type GroupNormConfig, type GroupNormOptions } from "./groupnorm.js";
export {
  BatchNorm,
  batchNorm,
  type BatchNormConfig,
  type BatchNormForwardOptions,
  type BatchNormOptions,
  type BatchNormResult,
} from "./batchnorm/batchnorm.js";
export { QKNorm, qkNorm, type QKNormConfig, type QKNormOptions } from "./qk_norm.js";
export { fusedAddNorm, type FusedAddNormOptions, type NormKind } from "./fused_add_norm.js";
export { type RowNormResult } from "./row_norm/row_norm.js";
export {
  deepnorm,
  deepnormConstants,
  periLn,
  parallelResidual,
  placement,
  postLn,
  preLn,
  sandwich,
  subLn,
  subLnGain,
  type DepthConfig,
  resPostNorm,
  type ParallelBranch,
  type Placement,
  type ResidualStep,
  type Sublayer,
  type StreamMap,
} from "./placement.js";
