import { concat, pad, slice, split, transpose, type PadMode, type Tensor } from "@x/kernels";
import type { OnnxMappings, OnnxNode } from "./node.js";

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Sizes of the pieces: given, or as even as `num_outputs` allows, the last one smaller. */
function sizes(node: OnnxNode, extent: number): readonly number[] {
  const given = node.host(1);
  if (given) return given;
  const n = node.number("num_outputs", node.outputs);
  const size = Math.ceil(extent / n);
  return range(n).map((i) => Math.max(0, Math.min(size, extent - i * size)));
}

/** Operators that move elements. */
export const shapeOperators: OnnxMappings = {
  Concat: (node) => [
    concat(
      range(node.inputs).map((i) => node.need(i)),
      node.number("axis", 0),
    ),
  ],
  Pad: (node) => {
    const x = node.need(0);
    const pads = node.host(1)!;
    const axes = node.host(3) ?? range(x.rank);
    const mode = node.text("mode", "constant") as "constant" | PadMode;
    const fill = mode === "constant" ? (node.host(2)?.[0] ?? 0) : mode;
    const pairs = axes.map((axis, i) => [axis, pads[i]!, pads[axes.length + i]!] as const);
    return [pairs.reduce((y: Tensor, [axis, before, after]) => pad(y, axis, before, after, fill), x)];
  },
  Slice: (node) => {
    const x = node.need(0);
    const [starts, ends] = [node.host(1)!, node.host(2)!];
    const axes = node.host(3) ?? range(starts.length);
    const steps = node.host(4) ?? starts.map(() => 1);
    return [
      slice(x, ...axes.map((axis, i) => ({ axis, start: starts[i]!, end: ends[i]!, step: steps[i]! }))),
    ];
  },
  Split: (node) => {
    const x = node.need(0);
    const axis = node.number("axis", 0);
    return split(x, sizes(node, x.shape.at(axis)!), axis);
  },
  Transpose: (node) => {
    const x = node.need(0);
    return [transpose(x, node.list("perm") ?? range(x.rank).reverse())];
  },
};
