import {
  gather,
  gatherND,
  scatterElements,
  scatterND,
  takeAlong,
  type ScatterReduction,
  type Tensor,
} from "@x/kernels";
import type { OnnxMapping, OnnxMappings, OnnxNode } from "./node.js";

/** Indices along the axis of an attribute. */
function along(node: OnnxNode): { x: Tensor; axis: number; indices: Tensor } {
  const x = node.need(0);
  const axis = node.number("axis", 0);
  return { x, axis, indices: node.indices(1, () => x.shape.at(axis)!) };
}

/** Tuples of indices of the axes from `first` on. */
function tuples(node: OnnxNode, x: Tensor, first = 0): Tensor {
  const depth = node.array(1)!.shape.at(-1)!;
  return node.indices(1, (place) => x.shape[first + (place % depth)]!);
}

const reduction = (node: OnnxNode): ScatterReduction => node.text("reduction", "none") as ScatterReduction;

const elements: OnnxMapping = (node) => {
  const { x, axis, indices } = along(node);
  return [scatterElements(x, indices, node.need(2), { axis, reduction: reduction(node) })];
};

/** Operators that read and write by index. */
export const indexingOperators: OnnxMappings = {
  Gather: (node) => {
    const { x, axis, indices } = along(node);
    return [gather(x, indices, axis)];
  },
  GatherElements: (node) => {
    const { x, axis, indices } = along(node);
    return [takeAlong(x, indices, axis)];
  },
  GatherND: (node) => {
    const x = node.need(0);
    const batchDims = node.number("batch_dims", 0);
    return [gatherND(x, tuples(node, x, batchDims), { batchDims })];
  },
  Scatter: elements,
  ScatterElements: elements,
  ScatterND: (node) => {
    const x = node.need(0);
    return [scatterND(x, tuples(node, x), node.need(2), { reduction: reduction(node) })];
  },
  /** New rows of a cache from an index of each sequence on, round its end where it is circular. */
  TensorScatter: (node) => {
    const [cache, update] = [node.need(0), node.need(1)];
    const given = node.number("axis", -2);
    const axis = given < 0 ? given + cache.rank : given;
    const circular = node.text("mode", "linear") === "circular";
    const starts = node.host(2) ?? Array<number>(cache.shape[0]!).fill(0);
    const inner = update.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
    const perBatch = update.size / update.shape[0]!;
    const rows = Array.from({ length: update.size }, (_, i) => {
      const row = starts[Math.floor(i / perBatch)]! + (Math.floor(i / inner) % update.shape[axis]!);
      return circular ? row % cache.shape[axis]! : row;
    });
    return [scatterElements(cache, node.gpu.tensor(rows, update.shape, "i32"), update, { axis })];
  },
};
