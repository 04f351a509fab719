import { crossEntropy, logSoftmax, negativeLogLikelihood, type CrossEntropyOptions } from "@x/kernels";
import type { OnnxMappings, OnnxNode } from "./node.js";

/** The classes lie on axis 1; a label that no class has stands for "ignore nothing". */
const options = (node: OnnxNode): CrossEntropyOptions => ({
  axis: 1,
  reduction: node.text("reduction", "mean") as "mean" | "sum" | "none",
  ignoreIndex: node.number("ignore_index", -(2 ** 31)),
  classWeights: node.input(2),
});

/** Losses over classes, of any number of places. */
export const lossOperators: OnnxMappings = {
  NegativeLogLikelihoodLoss: (node) => [negativeLogLikelihood(node.need(0), node.need(1), options(node))],
  SoftmaxCrossEntropyLoss: (node) => {
    const scores = node.need(0);
    return [
      crossEntropy(scores, node.need(1), options(node)),
      node.wants(1) ? logSoftmax(scores, { axis: 1 }) : undefined,
    ];
  },
};
