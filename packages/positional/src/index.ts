export { RotaryEmbedding, type RopeApplyOptions } from "./rope.js";
export {
  plainFrequencies,
  ropeFrequencies,
  type RopeConfig,
  type RopeFrequencies,
  type RopeScaling,
} from "./rope_frequencies.js";
export { ropeFromHuggingFace, ropeLayerTypes } from "./hf_rope.js";
export { learnedRope } from "./rope_learned.js";
export { Xpos, type XposApplyOptions, type XposConfig } from "./xpos.js";
export { yarnMscale, type YarnScaling } from "./rope_yarn.js";
export type { LinearScaling } from "./rope_linear.js";
export type { SuperhotScaling } from "./rope_superhot.js";
export type { NtkScaling } from "./rope_ntk.js";
export type { DynamicNtkScaling } from "./rope_dynamic_ntk.js";
export type { NtkByPartsScaling } from "./rope_ntk_by_parts.js";
export type { LongropeScaling } from "./rope_longrope.js";
export type { Llama3Scaling } from "./rope_llama3.js";
export type { CustomScaling } from "./rope_custom.js";
export { rotate, type HeadLayout, type RotateOptions } from "./rotate.js";
export { alibi, alibiSlopes } from "./alibi.js";
export { T5Bias, t5Bias, t5Buckets, t5Index, type T5BiasConfig } from "./t5_bias.js";
export {
  LearnedAbsolute,
  learnedAbsolute,
  type AbsoluteOptions,
  type DevicePositions,
} from "./learned_absolute.js";
export { sinusoidal, SinusoidalEmbedding, sinusoidalTable, type SinusoidalConfig } from "./sinusoidal.js";
export { shawIndex, shawKeys, ShawRelative, shawValues, type ShawConfig } from "./shaw_relative.js";
export {
  TransformerXl,
  transformerXl,
  type TransformerXlConfig,
  type TransformerXlSettings,
  type TransformerXlWeights,
} from "./transformer_xl.js";
export {
  debertaBucket,
  debertaDisentangled,
  debertaIndices,
  type DebertaConfig,
  type DebertaWeights,
} from "./deberta_disentangled.js";
export { DebertaDisentangled, type DebertaSettings } from "./deberta.js";
