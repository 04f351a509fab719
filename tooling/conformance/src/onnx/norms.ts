import { add, mean, rsqrt, transpose, variance, type Tensor } from "@x/kernels";
import { batchNorm, groupNorm, layerNorm, rmsNorm } from "@x/norm";
import type { OnnxMappings, OnnxNode } from "./node.js";

/** x [.., the axes from `axis` on] with those axes as one, and the shape with them reduced. */
function rows(node: OnnxNode, x: Tensor): { flat: Tensor; reduced: number[] } {
  const given = node.number("axis", -1);
  const axis = given < 0 ? given + x.rank : given;
  const width = x.shape.slice(axis).reduce((a, b) => a * b, 1);
  return {
    flat: x.reshape([x.size / width, width]),
    reduced: x.shape.map((n, i) => (i < axis ? n : 1)),
  };
}

const line = (t: Tensor | undefined): Tensor | undefined => t?.reshape([t.size]);

/** Normalisations. */
export const normOperators: OnnxMappings = {
  LayerNormalization: (node) => {
    const x = node.need(0);
    const { flat, reduced } = rows(node, x);
    const eps = node.number("epsilon", 1e-5);
    node.number("stash_type", 1);
    return [
      layerNorm(flat, { weight: line(node.need(1)), eps, bias: line(node.input(2)) }).reshape(x.shape),
      node.wants(1) ? mean(flat, { axes: 1 }).reshape(reduced) : undefined,
      node.wants(2) ? rsqrt(add(variance(flat, { axes: 1 }), eps)).reshape(reduced) : undefined,
    ];
  },
  RMSNormalization: (node) => {
    const x = node.need(0);
    node.number("stash_type", 1);
    const eps = node.number("epsilon", 1e-5);
    return [rmsNorm(rows(node, x).flat, { weight: line(node.need(1)), eps }).reshape(x.shape)];
  },
  GroupNormalization: (node) => {
    node.number("stash_type", 1);
    return [
      groupNorm(node.need(0), {
        numGroups: node.number("num_groups", 1),
        weight: node.need(1),
        bias: node.need(2),
        eps: node.number("epsilon", 1e-5),
      }),
    ];
  },
  /** Channels on axis 1; the library has features last. `momentum` is the share of the old value there. */
  BatchNormalization: (node) => {
    const x = node.need(0);
    const training = node.flag("training_mode");
    const channels = x.shape[1]!;
    const last = [0, ...[...x.shape.keys()].slice(2), 1];
    const back = last.map((_, i) => last.indexOf(i));
    const moved = transpose(x, last);
    const { out, runningMean, runningVar } = batchNorm(moved.reshape([1, x.size / channels, channels]), {
      training,
      weight: node.need(1),
      bias: node.need(2),
      runningMean: node.need(3),
      runningVar: node.need(4),
      eps: node.number("epsilon", 1e-5),
      momentum: 1 - node.number("momentum", 0.9),
      runningVariance: "population",
    });
    return [transpose(out.reshape(moved.shape), back), runningMean, runningVar];
  },
};
