// Sequence mixers without softmax: each maps a sequence to a sequence by a state of fixed size.
export type { SequenceForm } from "./decayed_attention.js";
export { deltaRule } from "./delta_rule.js";
export type { DeltaRuleOptions, MemoryOptions, MemoryOutputs } from "./delta_options.js";
export { gatedDeltaRule } from "./gated_delta_rule.js";
export { kda } from "./kda.js";
export { gatedLinearAttention } from "./gated_linear_attention.js";
export { gatedRetention, type GatedRetentionOptions } from "./gated_retention.js";
export { GatedRetention, type GatedRetentionLayerConfig } from "./gated_retention_layer.js";
export {
  linearAttention,
  LinearAttention,
  type LinearAttentionConfig,
  type LinearAttentionLayerConfig,
  type LinearAttentionOptions,
  type LinearAttentionResult,
} from "./linear_attention.js";
export {
  MultiScaleRetention,
  type MultiScaleRetentionConfig,
  type RetentionLayerInput,
  type RetentionLayerOptions,
  type RetentionLayerOutputs,
} from "./multi_scale_retention.js";
export type { RetentionHeadsConfig } from "./retention_heads.js";
export { retention, type RetentionConfig, type RetentionOptions } from "./retention.js";
export { ssd, type SsdOptions, type SsdParameters } from "./ssd.js";
export { SequenceState, type StatePlan } from "./sequence_state.js";
export { lru, Lru, type LruConfig, type LruOptions, type LruParameters } from "./lru.js";
export { s5, S5, type S5Config, type S5Options, type S5Parameters, type S5Rule } from "./s5.js";
export type { DiagonalParameters } from "./diagonal.js";
export { s4d, type S4dOptions, type S4dOutputs, type S4dParameters } from "./s4d.js";
export { S4d, type S4dConfig } from "./s4d_layer.js";
export {
  gatedLongConv,
  GatedLongConv,
  type GatedLongConvConfig,
  type GatedLongConvOptions,
  type GatedLongConvParameters,
} from "./gated_long_conv.js";
export { h3, H3, type H3Config, type H3Options, type H3Parameters, type H3State } from "./h3.js";
export type { ConvolutionForm } from "./long_convolution.js";
export type { Before, SequenceOptions } from "./sequence_state.js";
export { selectiveScan, type Discretization, type SelectiveScanOptions } from "./selective_scan.js";
export { MambaBlock, type MambaConfig, type MambaStates } from "./mamba.js";
export { rgLru, type RgLruOptions, type RgLruParameters } from "./rg_lru.js";
export { GriffinBlock, type GriffinConfig, type GriffinOptions, type GriffinStates } from "./griffin.js";
export { wkv, type WkvState } from "./wkv.js";
export {
  Rwkv4ChannelMix,
  Rwkv4TimeMix,
  type Rwkv4ChannelMixConfig,
  type Rwkv4ShiftState,
  type Rwkv4TimeMixConfig,
  type Rwkv4TimeMixStates,
} from "./rwkv4.js";
export { rwkv6, type Rwkv6Options } from "./rwkv6.js";
export { Rwkv6TimeMix, type Rwkv6TimeMixConfig, type Rwkv6TimeMixStates } from "./rwkv6_time_mix.js";
export { Mamba2Block, type Mamba2Config } from "./mamba2.js";
