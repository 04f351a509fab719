import { ConfigError, DTypeError, ShapeError } from "../base/errors.js";
import { sumMiddle, sumToShape } from "../tensor/reduce.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectInteger,
  expectIntegers,
  expectNoMore,
  expectTensor,
  expectTensorList,
  normalizeAxis,
  showShape,
  sizeOf,
} from "../base/validate.js";
import { broadcastShapes } from "./elementwise.js";
import { stridedCopy, stridesOf } from "./strided.js";

function runTranspose(x: Tensor, axes: readonly number[]): Tensor {
  const shape = axes.map((axis) => x.shape[axis]!);
  const out = x.gpu.empty(shape, x.dtype);
  const strides = stridesOf(x.shape);
  stridedCopy(
    "transpose",
    shape,
    { tensor: x, strides: axes.map((axis) => strides[axis]!) },
    { tensor: out, strides: stridesOf(shape) },
  );
  return out;
}

/** Reorder the axes: out.shape[i] = x.shape[axes[i]]. Without `axes` the last two are swapped. */
export function transpose(x: Tensor, axes?: readonly number[], ...rest: never[]): Tensor {
  const who = "transpose";
  expectTensor(who, "x", x);
  if (axes !== undefined) expectIntegers(who, "axes", axes);
  expectNoMore(who, rest);
  const all = x.shape.map((_, i) => i);
  if (!axes && x.rank < 2)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must have at least two axes`);
  const order = (axes ?? [...all.slice(0, -2), x.rank - 1, x.rank - 2]).map((axis) =>
    normalizeAxis(who, axis, x.rank),
  );
  if (order.length !== x.rank || new Set(order).size !== x.rank) {
    throw new ShapeError(
      who,
      `axes are ${showShape(axes ?? [])}; they must name each of the ${x.rank} axes once`,
    );
  }
  return applyOp({
    name: who,
    inputs: [x],
    forward: () => ({ outputs: [runTranspose(x, order)] }),
    backward: ({ grads }) => [
      runTranspose(
        grads[0]!,
        all.map((axis) => order.indexOf(axis)),
      ),
    ],
  })[0]!;
}

/** An op on the last axis, applied along another one. `who` and the axis are checked. */
export function alongAxis(who: string, x: Tensor, axis: number, op: (x: Tensor) => Tensor[]): Tensor[] {
  const along = normalizeAxis(who, axis, x.rank);
  if (along === x.rank - 1) return op(x);
  const order = [...x.shape.keys()].filter((i) => i !== along);
  const last = [...order, along];
  return x.gpu.scope(() =>
    // A result that has lost the axis is in order already.
    op(transpose(x, last)).map((y) =>
      y.rank < x.rank
        ? y
        : transpose(
            y,
            [...x.shape.keys()].map((i) => last.indexOf(i)),
          ),
    ),
  );
}

/** Repeat along axes of extent one (and new leading axes) up to `shape`. */
export function broadcastTo(x: Tensor, shape: readonly number[], ...rest: never[]): Tensor {
  const who = "broadcastTo";
  expectTensor(who, "x", x);
  expectIntegers(who, "shape", shape, 0);
  expectNoMore(who, rest);
  const target = broadcastShapes(who, [x.shape, shape]);
  if (target.length !== shape.length || target.some((n, i) => n !== shape[i])) {
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)}; it does not broadcast to ${showShape(shape)}`,
    );
  }
  return applyOp({
    name: who,
    inputs: [x],
    forward: () => {
      const out = x.gpu.empty(shape, x.dtype);
      const own = stridesOf(x.shape);
      const strides = shape.map((_, i) => {
        const axis = i - shape.length + x.rank;
        return axis < 0 || x.shape[axis] === 1 ? 0 : own[axis]!;
      });
      stridedCopy(who, shape, { tensor: x, strides }, { tensor: out, strides: stridesOf(shape) });
      return { outputs: [out] };
    },
    backward: ({ grads }) => [sumToShape(grads[0]!, x.shape)],
  })[0]!;
}

/** One range of an axis: [start, end), every `step`-th; negative bounds count from the end. */
export interface SliceRange {
  readonly axis: number;
  readonly start?: number;
  readonly end?: number;
  /** Not zero; negative walks backwards from `start` (default: the last) to `end` (exclusive; default: the first). */
  readonly step?: number;
}

/** First index and number of elements of a range, its bounds clamped to the axis as in NumPy and ONNX. */
function rangeOf(
  who: string,
  range: SliceRange,
  extent: number,
): { start: number; step: number; count: number } {
  const { step = 1 } = range;
  expectInteger(who, "step", step);
  if (step === 0) throw new ConfigError(who, "step is 0; it must be a positive or negative integer");
  // Walking backwards, the bound before the first element is -1.
  const [least, most] = step > 0 ? [0, extent] : [-1, extent - 1];
  const bound = (name: string, value: number | undefined, otherwise: number): number => {
    if (value === undefined) return otherwise;
    expectInteger(who, name, value);
    return Math.min(Math.max(value < 0 ? value + extent : value, least), most);
  };
  const start = bound("start", range.start, step > 0 ? least : most);
  const end = bound("end", range.end, step > 0 ? most : least);
  return { start, step, count: Math.max(0, Math.ceil((end - start) / step)) };
}

/**
 * Take a range along one or more axes. Bounds outside the axis are clamped, as in NumPy and ONNX, so that a range
 * may be empty but never leaves its axis.
 *
 * @example slice(x, { axis: 1, start: -3 }, { axis: 0, step: -1 })
 * @throws ShapeError, ConfigError
 */
export function slice(x: Tensor, ...ranges: readonly SliceRange[]): Tensor {
  const who = "slice";
  expectTensor(who, "x", x);
  const own = stridesOf(x.shape);
  const shape = [...x.shape];
  const strides = [...own];
  let offset = 0;
  const seen = new Set<number>();
  for (const range of ranges) {
    checkConfig(who, range, ["axis", "start", "end", "step"]);
    const axis = normalizeAxis(who, range.axis, x.rank);
    if (seen.has(axis)) throw new ConfigError(who, `axis ${axis} is given twice`);
    seen.add(axis);
    const { start, step, count } = rangeOf(who, range, x.shape[axis]!);
    shape[axis] = count;
    strides[axis] = own[axis]! * step;
    offset += own[axis]! * start;
  }
  return applyOp({
    name: who,
    inputs: [x],
    forward: () => {
      const out = x.gpu.empty(shape, x.dtype);
      stridedCopy(who, shape, { tensor: x, offset, strides }, { tensor: out, strides: stridesOf(shape) });
      return { outputs: [out] };
    },
    backward: ({ grads }) => {
      const dx = x.gpu.zeros(x.shape, x.dtype);
      stridedCopy(
        who,
        shape,
        { tensor: grads[0]!, strides: stridesOf(shape) },
        { tensor: dx, offset, strides },
      );
      return [dx];
    },
  })[0]!;
}

/** The elements in reverse order along an axis. */
export function flip(x: Tensor, axis: number, ...rest: never[]): Tensor {
  expectTensor("flip", "x", x);
  normalizeAxis("flip", axis, x.rank);
  expectNoMore("flip", rest);
  return slice(x, { axis, step: -1 });
}

/** Pieces of the given sizes along an axis. */
export function split(x: Tensor, sizes: readonly number[], axis = -1, ...rest: never[]): Tensor[] {
  expectTensor("split", "x", x);
  expectIntegers("split", "sizes", sizes, 0);
  expectNoMore("split", rest);
  const along = normalizeAxis("split", axis, x.rank);
  const total = sizes.reduce((a, b) => a + b, 0);
  if (total !== x.shape[along]) {
    throw new ShapeError(
      "split",
      `sizes are ${showShape(sizes)} (${total} in all); axis ${along} of ${showShape(x.shape)} has ${x.shape[along] ?? 0}`,
    );
  }
  let start = 0;
  return sizes.map((size) => slice(x, { axis: along, start, end: (start += size) }));
}

/** Join along an axis; the other extents and the dtype must be equal. */
export function concat(tensors: readonly Tensor[], axis = 0, ...rest: never[]): Tensor {
  const who = "concat";
  expectTensorList(who, "tensors", tensors);
  expectNoMore(who, rest);
  const first = tensors[0]!;
  const along = normalizeAxis(who, axis, first.rank);
  tensors.forEach((t, i) => {
    if (t.dtype !== first.dtype)
      throw new DTypeError(who, `tensor ${i} is ${t.dtype}, tensor 0 is ${first.dtype}; they must be equal`);
    if (t.rank !== first.rank || t.shape.some((n, j) => j !== along && n !== first.shape[j])) {
      throw new ShapeError(
        who,
        `tensor ${i} has shape ${showShape(t.shape)}, tensor 0 ${showShape(first.shape)}; all but axis ${along} must be equal`,
      );
    }
  });
  const shape = first.shape.map((n, i) =>
    i === along ? tensors.reduce((sum, t) => sum + t.shape[along]!, 0) : n,
  );
  const strides = stridesOf(shape);
  const offsets: number[] = [];
  let at = 0;
  for (const t of tensors) {
    offsets.push(at * strides[along]!);
    at += t.shape[along]!;
  }
  return applyOp({
    name: who,
    inputs: tensors,
    forward: () => {
      const out = first.gpu.empty(shape, first.dtype);
      tensors.forEach((t, i) => {
        stridedCopy(
          who,
          t.shape,
          { tensor: t, strides: stridesOf(t.shape) },
          { tensor: out, offset: offsets[i]!, strides },
        );
      });
      return { outputs: [out] };
    },
    backward: ({ grads, needs }) =>
      tensors.map((t, i) => {
        if (!needs[i]) return undefined;
        const dx = t.gpu.empty(t.shape, t.dtype);
        stridedCopy(
          who,
          t.shape,
          { tensor: grads[0]!, offset: offsets[i]!, strides },
          { tensor: dx, strides: stridesOf(t.shape) },
        );
        return dx;
      }),
  })[0]!;
}

/** Join along a new axis. */
export function stack(tensors: readonly Tensor[], axis = 0, ...rest: never[]): Tensor {
  expectTensorList("stack", "tensors", tensors);
  expectNoMore("stack", rest);
  const along = normalizeAxis("stack", axis, tensors[0]!.rank + 1);
  return concat(
    tensors.map((t) => t.reshape([...t.shape.slice(0, along), 1, ...t.shape.slice(along)])),
    along,
  );
}

/** Each element along an axis `times` times in a row (numpy's repeat). */
export function repeat(x: Tensor, times: number, axis: number, ...rest: never[]): Tensor {
  expectTensor("repeat", "x", x);
  expectNoMore("repeat", rest);
  const along = normalizeAxis("repeat", axis, x.rank);
  expectInteger("repeat", "times", times, 1);
  const outer = sizeOf(x.shape.slice(0, along));
  const inner = sizeOf(x.shape.slice(along + 1));
  const n = x.shape[along]!;
  const shape = x.shape.map((m, i) => (i === along ? m * times : m));
  return applyOp({
    name: "repeat",
    inputs: [x],
    forward: () => {
      const out = x.gpu.empty(shape, x.dtype);
      stridedCopy(
        "repeat",
        [outer * n, times, inner],
        { tensor: x, strides: [inner, 0, 1] },
        { tensor: out, strides: [times * inner, inner, 1] },
      );
      return { outputs: [out] };
    },
    backward: ({ grads }) => [sumMiddle(grads[0]!, outer * n, times, inner).alias(x.shape)],
  })[0]!;
}
