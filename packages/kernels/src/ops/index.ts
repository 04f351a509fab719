export { linear, matmul, type MatmulForm, type MatmulOptions } from "./matmul/matmul.js";
export {
  broadcastTo,
  concat,
  flip,
  pad,
  repeat,
  slice,
  split,
  stack,
  transpose,
  type SliceRange,
} from "./shape.js";
export {
  argmax,
  logSoftmax,
  logSumExp,
  max,
  mean,
  min,
  softmax,
  sum,
  variance,
  type ReduceOptions,
} from "./reductions.js";
export { rowElement, rowLanes, rowMain, rowPrelude, rowVariant, type RowVariant } from "./rows.js";
export { stridedCopy, stridesOf, type StridedView } from "./strided.js";
