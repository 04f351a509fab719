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
