export { rmsNorm, RMSNorm, type RMSNormOptions } from "./rmsnorm.js";
export { rmsNormGemma, GemmaRMSNorm } from "./rmsnorm_gemma.js";
export { layerNorm, LayerNorm } from "./layernorm.js";
export { PartialRMSNorm, partialRmsNorm, type PartialRMSNormOptions } from "./prmsnorm.js";
export { l2Normalize, ScaleNorm, scaleNorm } from "./scalenorm.js";
export { GroupNorm, groupNorm, type GroupNormOptions } from "./groupnorm.js";
export {
  BatchNorm,
  batchNorm,
  type BatchNormOptions,
  type BatchNormResult,
  type BatchNormSettings,
  type RunningVariance,
} from "./batchnorm.js";
export { QKNorm, qkNorm, type QKNormConfig, type QKNormOptions } from "./qk_norm.js";
export { fusedAddNorm, type FusedAddNormOptions, type NormKind } from "./fused_add_norm.js";
export { type RowNormResult } from "./row_norm.js";
export {
  deepnorm,
  deepnormConstants,
  periLn,
  placement,
  postLn,
  preLn,
  sandwich,
  subLn,
  subLnGain,
  type DepthConfig,
  type Placement,
  type ResidualStep,
  type StreamMap,
} from "./placement.js";
