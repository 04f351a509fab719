export { RotaryEmbedding, type RopeApplyOptions } from "./rope/rope.js";
export { plainFrequencies, type RopeFrequencies } from "./rope/frequencies.js";
export { ropeFrequencies, type RopeConfig, type RopeScaling } from "./rope/resolve.js";
export { ropeFromHuggingFace, ropeLayerTypes } from "./rope/huggingface.js";
export {
  LearnedRope,
  learnedRope,
  type LearnedRopeApplyOptions,
  type LearnedRopeConfig,
  type LearnedRopeOptions,
} from "./rope/learned.js";
export { Xpos, type XposApplyOptions, type XposConfig } from "./rope/xpos.js";
export { yarnMscale, type YarnScaling } from "./rope/scaling/yarn.js";
export type { LinearScaling } from "./rope/scaling/linear.js";
export type { SuperhotScaling } from "./rope/scaling/superhot.js";
export type { NtkScaling } from "./rope/scaling/ntk.js";
export type { DynamicNtkScaling } from "./rope/scaling/dynamic_ntk.js";
export type { NtkByPartsScaling } from "./rope/scaling/ntk_by_parts.js";
export type { LongropeScaling } from "./rope/scaling/longrope.js";
export type { Llama3Scaling } from "./rope/scaling/llama3.js";
export type { CustomScaling } from "./rope/scaling/custom.js";
export { rotate, type HeadLayout, type RotateOptions } from "./rope/rotate.js";
export { alibi, alibiSlopes, type AlibiOptions } from "./bias/alibi.js";
export {
  T5Bias,
  t5Bias,
  t5Buckets,
  t5Index,
  type T5BiasConfig,
  type T5BucketsConfig,
} from "./bias/t5_bias.js";
export {
  LearnedAbsolute,
  learnedAbsolute,
  type LearnedAbsoluteConfig,
  type LearnedAbsoluteForwardOptions,
  type LearnedAbsoluteOptions,
} from "./absolute/learned_absolute.js";
export {
  sinusoidal,
  SinusoidalEmbedding,
  sinusoidalTable,
  type SinusoidalConfig,
  type SinusoidalForwardOptions,
  type SinusoidalOptions,
  type SinusoidalTableConfig,
} from "./absolute/sinusoidal.js";
export {
  shawIndex,
  shawKeys,
  ShawRelative,
  shawValues,
  type ShawKeysOptions,
  type ShawRelativeConfig,
  type ShawValuesOptions,
} from "./relative/shaw_relative.js";
export {
  TransformerXlRelative,
  transformerXlRelative,
  type TransformerXlRange,
  type TransformerXlRelativeConfig,
  type TransformerXlRelativeOptions,
} from "./relative/transformer_xl.js";
export {
  debertaBucket,
  debertaDisentangled,
  debertaIndices,
  type DebertaBucketsConfig,
  type DebertaDisentangledOptions,
} from "./relative/deberta_disentangled.js";
export { DebertaDisentangled, type DebertaDisentangledConfig } from "./relative/deberta.js";
