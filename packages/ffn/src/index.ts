export {
  activation,
  ACTIVATION_EXPRESSIONS,
  ACTIVATION_KINDS,
  type ActivationKind,
  type Beta,
} from "./activation.js";
export { FeedForward, ffn, type FfnConfig, type FfnWeights } from "./ffn.js";
export { glu, GLU_KINDS, type GluWeights } from "./glu.js";
export type { GluKind } from "@x/kernels";
export { GatedFeedForward, gluFfn, type GluFfnConfig, type GluFfnWeights } from "./glu_ffn.js";
export { gluHiddenDim, type GluHiddenDimOptions } from "./glu_hidden_dim.js";
export { kanBspline, type SplineOptions } from "./kan_bspline.js";
export { kan, type BaseActivation, type KanOptions, type KanWeights } from "./kan.js";
export { kanChebyshev, type KanChebyshevOptions } from "./kan_chebyshev.js";
export { kanFourier, type KanFourierOptions, type KanFourierWeights } from "./kan_fourier.js";
export {
  kanWavelet,
  type KanWaveletOptions,
  type KanWaveletWeights,
  type WaveletKind,
} from "./kan_wavelet.js";
