export {
  activation,
  ACTIVATION_EXPRESSIONS,
  ACTIVATION_KINDS,
  type ActivationKind,
  type Beta,
} from "./activation.js";
export { FeedForward, ffn, type FfnConfig, type FfnInit, type FfnWeights } from "./ffn.js";
export { glu, GLU_KINDS, type GluWeights } from "./glu.js";
export type { GluKind } from "@x/kernels";
export { GatedFeedForward, gluFfn, type GluFfnConfig, type GluFfnWeights } from "./glu_ffn.js";
export { gluHiddenDim, type GluHiddenDimOptions } from "./glu_hidden_dim.js";
export { kanBspline, type SplineOptions } from "./kan_bspline.js";
export { kan, type BaseActivation, type KanOptions, type KanWeights } from "./kan.js";
export {
  ChebyshevKanLinear,
  kanChebyshev,
  type ChebyshevKanConfig,
  type KanChebyshevOptions,
} from "./kan_chebyshev.js";
export {
  FourierKanLinear,
  kanFourier,
  type FourierKanConfig,
  type KanFourierOptions,
  type KanFourierWeights,
} from "./kan_fourier.js";
export {
  WaveletKanLinear,
  kanWavelet,
  type WaveletKanConfig,
  type KanWaveletOptions,
  type KanWaveletWeights,
  type WaveletKind,
} from "./kan_wavelet.js";
export {
  ffnKeys,
  ffnMemory,
  gluKeys,
  keyTriggers,
  topKeys,
  valueTokens,
  type FfnMemory,
  type FfnMemoryOptions,
  type KeyActivity,
  type RankBy,
  type TopKeys,
} from "./ffn_memory.js";
export { keyCovariance } from "./key_covariance.js";
export { rome, type RomeFact, type RomeResult } from "./rome.js";
export { memit, type MemitFacts, type MemitOptions } from "./memit.js";
export { spdSolve } from "./spd_solve.js";
export {
  kanGridUpdate,
  type KanGrid,
  type KanGridData,
  type KanGridUpdateOptions,
} from "./kan_grid_update.js";
export {
  kanActivationRegularization,
  kanWeightRegularization,
  type KanRegularization,
  type KanRegularizationWeights,
} from "./kan_regularization.js";
export { KanLinear, type KanLinearConfig } from "./kan_linear.js";
export type { KanInit, KanLayer, KanShape } from "./kan_layer.js";
export {
  KAN_BASES,
  KanFeedForward,
  kanLayer,
  type KanBasis,
  type KanFeedForwardConfig,
} from "./kan_feed_forward.js";
export { factValue, type FactValue, type FactValueOptions } from "./fact_value.js";
