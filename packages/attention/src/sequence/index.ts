// Sequence mixers without softmax: each maps a sequence to a sequence by a state of fixed size.
export type { SequenceForm } from "./decay/decayed_attention.js";
export { deltaRule } from "./delta/delta_rule.js";
export type { DeltaRuleOptions, MemoryOptions, MemoryOutputs } from "./delta/options.js";
export {
  GatedDeltaNet,
  type GatedDeltaNetConfig,
  type GatedDeltaNetOptions,
  type GatedDeltaNetStates,
} from "./delta/gated_delta_net.js";
export { gatedDeltaRule } from "./delta/gated_delta_rule.js";
export { kda } from "./delta/kda.js";
export { gatedLinearAttention } from "./linear_attention/gated_linear_attention.js";
export { gatedRetention, type GatedRetentionOptions } from "./retention/gated_retention.js";
export { GatedRetention, type GatedRetentionLayerConfig } from "./retention/gated_retention_layer.js";
export {
  linearAttention,
  LinearAttention,
  type LinearAttentionLayerConfig,
  type LinearAttentionOptions,
  type LinearAttentionResult,
} from "./linear_attention/linear_attention.js";
export {
  MultiScaleRetention,
  type MultiScaleRetentionConfig,
  type RetentionLayerInput,
  type RetentionLayerOutputs,
} from "./retention/multi_scale_retention.js";
export { retention, type RetentionOptions } from "./retention/retention.js";
export { ssd, type SsdOptions, type SsdParameters } from "./mamba/ssd.js";
export { SequenceState, type StatePlan } from "./state/sequence_state.js";
export { lru, Lru, type LruConfig, type LruOptions, type LruParameters } from "./ssm/lru.js";
export { s5, S5, type S5Config, type S5Options, type S5Parameters } from "./ssm/s5.js";
export type { DiagonalParameters } from "./ssm/diagonal.js";
export { s4d, type S4dOptions, type S4dOutputs, type S4dParameters } from "./ssm/s4d.js";
export { S4d, type S4dConfig } from "./ssm/s4d_layer.js";
export {
  gatedLongConv,
  GatedLongConv,
  type GatedLongConvConfig,
  type GatedLongConvOptions,
  type GatedLongConvParameters,
} from "./convolution/gated_long_conv.js";
export { h3, H3, type H3Config, type H3Options, type H3Parameters, type H3State } from "./ssm/h3.js";
export type { ConvolutionForm } from "./convolution/long_convolution.js";
export type { Before, SequenceOptions } from "./state/sequence_state.js";
export { selectiveScan, type Discretization, type SelectiveScanOptions } from "./mamba/selective_scan.js";
export { MambaBlock, type MambaConfig, type MambaStates } from "./mamba/mamba.js";
export { rgLru, type RgLruOptions, type RgLruParameters } from "./griffin/rg_lru.js";
export {
  GriffinBlock,
  type GriffinConfig,
  type GriffinOptions,
  type GriffinStates,
} from "./griffin/griffin.js";
export { wkv, type WkvState } from "./rwkv/wkv.js";
export {
  Rwkv4ChannelMix,
  Rwkv4TimeMix,
  type Rwkv4ChannelMixConfig,
  type Rwkv4ShiftState,
  type Rwkv4TimeMixConfig,
  type Rwkv4TimeMixStates,
} from "./rwkv/rwkv4.js";
export { rwkv6, type Rwkv6Options } from "./rwkv/rwkv6.js";
export { Rwkv6TimeMix, type Rwkv6TimeMixConfig, type Rwkv6TimeMixStates } from "./rwkv/rwkv6_time_mix.js";
export { Mamba2Block, type Mamba2Config } from "./mamba/mamba2.js";
