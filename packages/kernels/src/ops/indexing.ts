import { BYTES_PER_ELEMENT, type ElementType } from "../base/dtype.js";
import { flatMain } from "../kernel/flat_grid.js";
import { partsOf, type Part } from "../kernel/flat_run.js";
import { DTypeError, ShapeError } from "../base/errors.js";
import { defineKernel, grid1d, type Bindable } from "../kernel/kernel.js";
import { widenRows } from "../stored/widen.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  expectFloat,
  expectInteger,
  expectNoMore,
  expectTensor,
  normalizeAxis,
  showShape,
  sizeOf,
} from "../base/validate.js";
import { groupBy } from "./grouping.js";
import { slice, transpose } from "./shape.js";

interface IndexVariant {
  readonly dtype: string;
  readonly vec: boolean;
}

const element = (v: IndexVariant): string => (v.vec ? `vec4<${v.dtype}>` : v.dtype);

/**
 * out[o, n, :] = x[o, ids[n], :]; NaN (0 for integers) where ids[n] lies outside `total`. Of a part of x, rows `first` to
 * first + extent - 1, only what lies there is written.
 */
const gatherKernel = defineKernel({
  name: "gather",
  bindings: (v: IndexVariant) => ({
    x: `read ${element(v)}`,
    ids: "read i32",
    out: `write ${element(v)}`,
  }),
  params: { outer: "u32", extent: "u32", inner: "u32", count: "u32", nan: "u32", first: "u32", total: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.outer * params.count * params.inner")}
  let n = i / params.inner;
  let key = ids[n % params.count];
  if (key < 0 || u32(key) >= params.total) {
    ${v.dtype === "f32" || v.dtype === "f16" ? `out[i] = ${element(v)}(${v.dtype}(bitcast<f32>(params.nan)));` : `out[i] = ${element(v)}(0);`}
    return;
  }
  let row = u32(key) - params.first;
  if (row >= params.extent) { return; }
  out[i] = x[(n / params.count * params.extent + row) * params.inner + i % params.inner];
}`,
});

/** out[o, v, :] = sum over the positions n with ids[n] = first + v of g[o, n, :], in increasing n. */
const gatherSumKernel = defineKernel({
  name: "gatherBackward",
  bindings: (v: IndexVariant) => ({
    g: `read ${element(v)}`,
    offsets: "read u32",
    order: "read u32",
    out: `write ${element(v)}`,
  }),
  params: { outer: "u32", extent: "u32", inner: "u32", count: "u32", first: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.outer * params.extent * params.inner")}
  let row = i / params.inner;
  let v = params.first + row % params.extent;
  let base = row / params.extent * params.count;
  var total = ${v.vec ? "vec4f()" : "0.0"};
  for (var j = offsets[v]; j < offsets[v + 1u]; j++) {
    total += ${v.vec ? "vec4f" : "f32"}(g[(base + order[j]) * params.inner + i % params.inner]);
  }
  out[i] = ${element(v)}(total);
}`,
});

interface Extents {
  readonly outer: number;
  readonly extent: number;
  readonly inner: number;
  readonly count: number;
}

function call(
  dtype: string,
  e: Extents,
  rows: number,
): { variant: IndexVariant; params: Extents; workgroups: [number, number] } {
  const vec = e.inner % 4 === 0 && e.inner > 0;
  const inner = vec ? e.inner / 4 : e.inner;
  return {
    variant: { dtype, vec },
    params: { ...e, inner },
    workgroups: grid1d(Math.ceil((rows * inner) / 64)),
  };
}

function runGather(x: Tensor, ids: Tensor, e: Extents, shape: readonly number[]): Tensor {
  const out = x.gpu.empty(shape, x.dtype);
  const { params, ...rest } = call(x.dtype, e, e.outer * e.count);
  for (const { first, count, bind } of rowParts(x, e))
    x.gpu.run(gatherKernel, {
      ...rest,
      params: { ...params, extent: count, first, total: e.extent, nan: 0x7fc00000 },
      bindings: { x: bind, ids, out },
    });
  return out;
}

/** The rows of an axis that a kernel binds at a time: all of them, unless the first axis is more than a binding holds. */
function rowParts(t: Tensor, e: Extents): (Part & { readonly bind: Bindable })[] {
  const bytes = e.inner * BYTES_PER_ELEMENT[t.dtype as ElementType];
  const parts = e.outer === 1 ? partsOf(t.gpu, e.extent, bytes) : [];
  if (parts.length <= 1) return [{ first: 0, count: e.extent, bind: t }];
  return parts.map(({ first, count }) => ({
    first,
    count,
    bind: { tensor: t, byteOffset: first * bytes, byteLength: count * bytes },
  }));
}

function runScatter(g: Tensor, ids: Tensor, e: Extents, shape: readonly number[]): Tensor {
  const out = g.gpu.empty(shape, g.dtype);
  const { offsets, order } = groupBy(ids, e.extent);
  for (const { first, count, bind } of rowParts(out, e)) {
    const { params, ...rest } = call(g.dtype, { ...e, extent: count }, e.outer * count);
    g.gpu.run(gatherSumKernel, {
      ...rest,
      params: { ...params, first },
      bindings: { g, offsets, order, out: bind },
    });
  }
  return out;
}

function expectIds(who: string, ids: Tensor): void {
  expectTensor(who, "indices", ids);
  if (ids.dtype !== "i32") throw new DTypeError(who, `indices are ${ids.dtype}; they must be i32`);
}

/*
 * One rule for indices that a kernel reads: one outside 0..extent-1 names nothing. What is read there is NaN (0 in a
 * tensor of integers, which has no NaN), what would be written there is left out, and no gradient passes. Negative
 * indices are outside, too: they do not count from the end.
 */

/**
 * Rows of an axis by index: out.shape = x.shape[..axis] + indices.shape + x.shape[axis+1..]. Indices are i32;
 * one outside 0..extent-1 gives NaN (0 for integers), never other memory. The gradient adds in a fixed order.
 */
export function gather(x: Tensor, indices: Tensor, axis = 0, ...rest: never[]): Tensor {
  expectTensor("gather", "x", x);
  expectNoMore("gather", rest);
  expectIds("gather", indices);
  const along = normalizeAxis("gather", axis, x.rank);
  const e = {
    outer: sizeOf(x.shape.slice(0, along)),
    extent: x.shape[along]!,
    inner: sizeOf(x.shape.slice(along + 1)),
    count: indices.size,
  };
  const shape = [...x.shape.slice(0, along), ...indices.shape, ...x.shape.slice(along + 1)];
  return applyOp({
    name: "gather",
    inputs: [x, indices],
    forward: () => ({ outputs: [runGather(x, indices, e, shape)] }),
    backward: ({ grads }) => [runScatter(grads[0]!, indices, e, x.shape), undefined],
  })[0]!;
}

/**
 * Rows of a table [vocab, dim] by id (i32, any shape): [...ids.shape, dim]. A table that is only stored (bf16, q8_0,
 * q4_0, ...) is a constant, and its rows become f32.
 */
export function embedding(table: Tensor, ids: Tensor, ...rest: never[]): Tensor {
  expectTensor("embedding", "table", table);
  expectNoMore("embedding", rest);
  if (table.rank !== 2)
    throw new ShapeError("embedding", `table has shape ${showShape(table.shape)}; it must be [vocab, dim]`);
  expectIds("embedding", ids);
  if (table.stored) return widenRows(table, ids);
  return gather(table, ids, 0);
}

/**
 * Sum of rows by index: out[v] = sum of updates[n] over the n with indices[n] = v, for v in 0..size-1. The first
 * axes of `updates` are those of `indices`. Repeatable: the order of the sum is that of n. Others are left out.
 */
export function scatterAdd(updates: Tensor, indices: Tensor, size: number, ...more: never[]): Tensor {
  const who = "scatterAdd";
  expectTensor(who, "updates", updates);
  expectNoMore(who, more);
  expectIds(who, indices);
  expectInteger(who, "size", size, 1);
  expectFloat(who, "updates", updates);
  if (indices.shape.some((n, i) => n !== updates.shape[i])) {
    throw new ShapeError(
      who,
      `updates have shape ${showShape(updates.shape)}; the first axes must be those of indices, ${showShape(indices.shape)}`,
    );
  }
  const rest = updates.shape.slice(indices.rank);
  const e = { outer: 1, extent: size, inner: sizeOf(rest), count: indices.size };
  return applyOp({
    name: who,
    inputs: [updates, indices],
    forward: () => ({ outputs: [runScatter(updates, indices, e, [size, ...rest])] }),
    backward: ({ grads }) => [zeroOutside(grads[0]!, indices, e, updates.shape), undefined],
  })[0]!;
}

const guardedKernel = defineKernel({
  name: "scatterBackward",
  bindings: (v: IndexVariant) => ({
    x: `read ${element(v)}`,
    ids: "read i32",
    out: `write ${element(v)}`,
  }),
  params: { extent: "u32", inner: "u32", count: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.count * params.inner")}
  let key = ids[i / params.inner];
  var value = ${element(v)}();
  if (key >= 0 && u32(key) < params.extent) { value = x[u32(key) * params.inner + i % params.inner]; }
  out[i] = value;
}`,
});

function zeroOutside(g: Tensor, ids: Tensor, e: Extents, shape: readonly number[]): Tensor {
  const out = g.gpu.empty(shape, g.dtype);
  const { variant, params, workgroups } = call(g.dtype, e, e.count);
  const { extent, inner, count } = params;
  g.gpu.run(guardedKernel, {
    variant,
    params: { extent, inner, count },
    workgroups,
    bindings: { x: g, ids, out },
  });
  return out;
}

interface AlongVariant {
  readonly dtype: string;
}

const alongKernel = defineKernel({
  name: "takeAlong",
  bindings: (v: AlongVariant) => ({
    x: `read ${v.dtype}`,
    ids: "read i32",
    out: `write ${v.dtype}`,
  }),
  params: { width: "u32", taken: "u32", count: "u32", nan: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let key = ids[i];
  if (key < 0 || u32(key) >= params.width) {
    out[i] = ${v.dtype === "f32" || v.dtype === "f16" ? `${v.dtype}(bitcast<f32>(params.nan))` : "0"};
    return;
  }
  out[i] = ${v.dtype}(x[i / params.taken * params.width + u32(key)]);
}`,
});

const alongBackwardKernel = defineKernel({
  name: "takeAlongBackward",
  bindings: (v: AlongVariant) => ({
    g: `read ${v.dtype}`,
    ids: "read i32",
    out: `write ${v.dtype}`,
  }),
  params: { width: "u32", taken: "u32", count: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let first = i / params.width * params.taken;
  let own = i32(i % params.width);
  var total = 0.0;
  for (var j = 0u; j < params.taken; j++) { total += select(0.0, f32(g[first + j]), ids[first + j] == own); }
  out[i] = ${v.dtype}(total);
}`,
});

/** Elements of each row by index: x [..., width], indices i32 [..., k] -> [..., k]; indices outside as in `gather`. */
export function takeAlongLast(x: Tensor, indices: Tensor, ...rest: never[]): Tensor {
  const who = "takeAlongLast";
  expectTensor(who, "x", x);
  expectNoMore(who, rest);
  expectIds(who, indices);
  const width = x.shape.at(-1) ?? 0;
  const taken = indices.shape.at(-1) ?? 0;
  if (x.rank !== indices.rank || x.shape.slice(0, -1).some((n, i) => n !== indices.shape[i]) || width === 0) {
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)}, indices ${showShape(indices.shape)}; all but the last axis must be equal`,
    );
  }
  const variant = { dtype: x.dtype };
  return applyOp({
    name: who,
    inputs: [x, indices],
    forward: () => {
      const out = x.gpu.empty(indices.shape, x.dtype);
      const count = out.size;
      x.gpu.run(alongKernel, {
        variant,
        bindings: { x, ids: indices, out },
        params: { width, taken, count, nan: 0x7fc00000 },
        workgroups: grid1d(Math.ceil(count / 64)),
      });
      return { outputs: [out] };
    },
    backward: ({ grads }) => {
      const out = x.gpu.empty(x.shape, x.dtype);
      const count = out.size;
      x.gpu.run(alongBackwardKernel, {
        variant,
        bindings: { g: grads[0]!, ids: indices, out },
        params: { width, taken, count },
        workgroups: grid1d(Math.ceil(count / 64)),
      });
      return [out, undefined];
    },
  })[0]!;
}

/**
 * Elements along an axis by index (numpy's take_along_axis): for axis 0 out[i, j] = x[indices[i, j], j].
 *
 * x of any dtype, indices i32 of the rank of x and nowhere larger but along the axis; result of the shape of indices.
 * Indices outside as in `gather`. Differentiable in x.
 *
 * @throws ShapeError, DTypeError
 */
export function takeAlong(x: Tensor, indices: Tensor, axis = -1, ...rest: never[]): Tensor {
  const who = "takeAlong";
  expectTensor(who, "x", x);
  expectIds(who, indices);
  expectNoMore(who, rest);
  const along = normalizeAxis(who, axis, x.rank);
  if (x.rank !== indices.rank || indices.shape.some((n, i) => i !== along && n > x.shape[i]!))
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)}, indices ${showShape(indices.shape)}; they must have one rank, and none but axis ${along} of indices may be larger`,
    );
  return x.gpu.scope(() => {
    const ranges = indices.shape.flatMap((end, i) =>
      i === along || end === x.shape[i] ? [] : [{ axis: i, end }],
    );
    const part = ranges.length === 0 ? x : slice(x, ...ranges);
    if (along === x.rank - 1) return takeAlongLast(part, indices);
    const last = [...[...x.shape.keys()].filter((i) => i !== along), along];
    const back = last.map((_, i) => last.indexOf(i));
    return transpose(takeAlongLast(transpose(part, last), transpose(indices, last)), back);
  });
}
