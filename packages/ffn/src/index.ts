export {
  activation,
  ACTIVATION_EXPRESSIONS,
  ACTIVATION_KINDS,
  type ActivationKind,
  type ActivationOptions,
  type Beta,
} from "./activation.js";
export {
  FeedForward,
  ffn,
  type FeedForwardConfig,
  type FeedForwardOptions,
  type FfnOptions,
  type FfnWeights,
} from "./ffn.js";
export type { FeedForwardParts, InnerNorm } from "./inner_norm.js";
export { glu, GLU_KINDS, splitGateUp, type GluOptions, type GluWeights } from "./glu.js";
export type { GluKind } from "@x/kernels";
export {
  GatedFeedForward,
  gluFfn,
  type GatedFeedForwardConfig,
  type GatedFeedForwardOptions,
  type GluFfnOptions,
  type GluFfnWeights,
} from "./glu_ffn.js";
export { gluHiddenDim, type GluHiddenDimOptions } from "./glu_hidden_dim.js";
export { kanBspline, type KanBsplineOptions, type SplineOptions } from "./kan/bases/bspline.js";
export { kan, type BaseActivation, type KanOptions, type KanWeights } from "./kan/kan.js";
export {
  ChebyshevKanLinear,
  kanChebyshev,
  type ChebyshevKanConfig,
  type KanChebyshevOptions,
  type KanChebyshevWeights,
} from "./kan/bases/chebyshev.js";
export {
  FourierKanLinear,
  kanFourier,
  type FourierKanConfig,
  type KanFourierOptions,
  type KanFourierWeights,
} from "./kan/bases/fourier.js";
export {
  FastKanLinear,
  fastKan,
  type FastKanConfig,
  type FastKanOptions,
  type FastKanWeights,
} from "./kan/bases/gaussian.js";
export { katRational, type KatRationalOptions, type KatRationalWeights } from "./kan/rational.js";
export {
  WaveletKanLinear,
  kanWavelet,
  type WaveletKanConfig,
  type KanWaveletOptions,
  type KanWaveletWeights,
  type WaveletKind,
} from "./kan/bases/wavelet.js";
export {
  ffnKeys,
  ffnMemory,
  gluKeys,
  keyTriggers,
  topKeys,
  valueTokens,
  type FfnKeysWeights,
  type FfnMemory,
  type FfnMemoryOptions,
  type FfnMemoryWeights,
  type GluKeysWeights,
  type KeyActivity,
  type RankBy,
  type TopKeys,
  type TopKeysOptions,
} from "./memory/ffn_memory.js";
export { keyCovariance, type KeyCovarianceOptions } from "./memory/key_covariance.js";
export { rome, type RomeFact, type RomeOptions, type RomeResult } from "./memory/rome.js";
export { memit, type MemitFacts, type MemitOptions } from "./memory/memit.js";
export { spdSolve, type SpdSolveOptions } from "./memory/spd_solve.js";
export {
  kanGridUpdate,
  type KanGrid,
  type KanGridData,
  type KanGridUpdateOptions,
} from "./kan/grid_update.js";
export {
  kanActivationRegularization,
  kanWeightRegularization,
  type KanActivationRegularizationOptions,
  type KanRegularization,
  type KanRegularizationWeights,
} from "./kan/regularization.js";
export { KanLinear, type KanLinearConfig, type KanLinearUpdateOptions } from "./kan/linear.js";
export type { KanLayer } from "./kan/layer.js";
export { KAN_BASES, KanFeedForward, type KanBasis, type KanFeedForwardConfig } from "./kan/feed_forward.js";
export { factValue, type FactValue, type FactValueOptions } from "./memory/fact_value.js";
