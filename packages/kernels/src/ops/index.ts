export { linear, matmul, type MatmulOptions } from "./matmul/matmul.js";
export { adaptLinear, isAdapted, type LowRank } from "./matmul/low_rank.js";
export type { MatmulForm } from "./matmul/form.js";
export {
  broadcastTo,
  concat,
  flip,
  repeat,
  slice,
  split,
  stack,
  transpose,
  type SliceRange,
} from "./shape.js";
export { pad, type PadMode } from "./pad.js";
export { mean, sum, variance, type ReduceOptions } from "./reductions.js";
export { argmax, argmin, max, min, type ArgExtremeOptions } from "./extremes.js";
export { logSoftmax, logSumExp, softmax, type LogSumExpOptions, type SoftmaxOptions } from "./softmax.js";
export { rowElement, rowLanes, rowMain, rowPrelude, rowVariant, type RowVariant } from "./rows.js";
export { stridedCopy, stridesOf, type StridedView } from "./strided.js";
export { groupedMatmul } from "./matmul/grouped.js";
export { groupBy, type Grouping } from "./grouping.js";
export { embedding, gather, scatterAdd, takeAlong, takeAlongLast } from "./indexing.js";
export {
  gatherND,
  scatterElements,
  scatterND,
  type ScatterOptions,
  type ScatterReduction,
} from "./scatter.js";
export { pow } from "./power.js";
export { argsort, sort, topk, type SortOptions } from "./sorting.js";
export { associativeScan, cumsum, linearRecurrence, type AssociativeScan, type ScanOptions } from "./scan.js";
export { causalConv1d } from "./conv.js";
export {
  crossEntropy,
  negativeLogLikelihood,
  type CrossEntropyOptions,
  type NegativeLogLikelihoodOptions,
} from "./losses/losses.js";
export { linearCrossEntropy, type LinearCrossEntropyOptions } from "./losses/linear_cross_entropy.js";
