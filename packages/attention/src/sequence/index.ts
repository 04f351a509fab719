// Sequence mixers without softmax: each maps a sequence to a sequence by a state of fixed size.
export type { SequenceForm } from "./decayed_attention.js";
export { gatedRetention, type GatedRetentionOptions } from "./gated_retention.js";
export { retention, type RetentionConfig, type RetentionOptions } from "./retention.js";
export { ssd, type SsdOptions, type SsdParameters } from "./ssd.js";
export { SequenceState, type StatePlan } from "./sequence_state.js";
export { lru, Lru, type LruConfig, type LruOptions, type LruParameters } from "./lru.js";
export { s5, S5, type S5Config, type S5Options, type S5Parameters, type S5Rule } from "./s5.js";
export type { DiagonalParameters } from "./diagonal.js";
export { s4d, S4d, type S4dConfig, type S4dOptions, type S4dOutputs, type S4dParameters } from "./s4d.js";
