import { ConfigError, DTypeError, ShapeError } from "../errors.js";
import { sumMiddle, sumToShape } from "../reduce.js";
import { applyOp } from "../tape.js";
import type { Tensor } from "../tensor.js";
import { expectInteger, normalizeAxis, showShape, sizeOf } from "../validate.js";
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
export function transpose(x: Tensor, axes?: readonly number[]): Tensor {
  const who = "transpose";
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

/** Repeat along axes of extent one (and new leading axes) up to `shape`. */
export function broadcastTo(x: Tensor, shape: readonly number[]): Tensor {
  const who = "broadcastTo";
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

/** Take a range along one or more axes. */
export function slice(x: Tensor, ...ranges: readonly SliceRange[]): Tensor {
  const who = "slice";
  const own = stridesOf(x.shape);
  const shape = [...x.shape];
  const strides = [...own];
  let offset = 0;
  const seen = new Set<number>();
  for (const range of ranges) {
    const axis = normalizeAxis(who, range.axis, x.rank);
    if (seen.has(axis)) throw new ConfigError(who, `axis ${axis} is given twice`);
    seen.add(axis);
    const extent = x.shape[axis]!;
    const { step = 1 } = range;
    expectInteger(who, "step", step, -Infinity);
    if (step === 0) throw new ConfigError(who, "step is 0; it must be a positive or negative integer");
    const bound = (value: number | undefined, name: string, otherwise: number): number => {
      if (value === undefined) return otherwise;
      expectInteger(who, name, value, -extent, extent);
      return value < 0 ? value + extent : value;
    };
    const start = bound(range.start, "start", step > 0 ? 0 : extent - 1);
    const end = bound(range.end, "end", step > 0 ? extent : -1);
    shape[axis] = Math.max(0, Math.ceil((end - start) / step));
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
export function flip(x: Tensor, axis: number): Tensor {
  return slice(x, { axis, step: -1 });
}

/** Pieces of the given sizes along an axis. */
export function split(x: Tensor, sizes: readonly number[], axis = -1): Tensor[] {
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
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  const who = "concat";
  const first = tensors[0];
  if (!first) throw new ConfigError(who, "was given no tensor");
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
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  const rank = (tensors[0]?.rank ?? 0) + 1;
  const along = normalizeAxis("stack", axis, rank);
  return concat(
    tensors.map((t) => t.reshape([...t.shape.slice(0, along), 1, ...t.shape.slice(along)])),
    along,
  );
}

/** Add `before` and `after` elements of `value` along an axis. */
export function pad(x: Tensor, axis: number, before: number, after: number, value = 0): Tensor {
  const along = normalizeAxis("pad", axis, x.rank);
  expectInteger("pad", "before", before, 0);
  expectInteger("pad", "after", after, 0);
  const extra = (n: number): Tensor[] =>
    n === 0
      ? []
      : [
          x.gpu.full(
            x.shape.map((m, i) => (i === along ? n : m)),
            value,
            x.dtype,
          ),
        ];
  return x.gpu.scope(() => concat([...extra(before), x, ...extra(after)], along));
}

/** Each element along an axis `times` times in a row (numpy's repeat). */
export function repeat(x: Tensor, times: number, axis: number): Tensor {
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
