import { flatMain } from "../kernel/flat_grid.js";
import { DTypeError, ShapeError } from "../base/errors.js";
import { isFloat, type DType } from "../base/dtype.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectDType,
  expectInteger,
  expectNoMore,
  expectOneOf,
  expectTensors,
  normalizeAxis,
  showShape,
  sizeOf,
} from "../base/validate.js";
import { groupBy } from "./grouping.js";
import { gather } from "./indexing.js";
import { stack } from "./shape.js";

/** What becomes of an element that is there and of updates that meet: the last one stays, or they are combined. */
export type ScatterReduction = "none" | "add" | "mul" | "max" | "min";

const REDUCTIONS: readonly ScatterReduction[] = ["none", "add", "mul", "max", "min"];

const idsKernel = defineKernel({
  name: "rowIds",
  bindings: { indices: "read i32", out: "write i32" },
  params: { count: "u32", depth: "u32", dimsLow: "vec4<u32>", dimsHigh: "vec4<u32>" },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  var row = 0;
  var inside = true;
  for (var j = 0u; j < params.depth; j++) {
    let extent = i32(select(params.dimsHigh[j % 4u], params.dimsLow[j % 4u], j < 4u));
    let key = indices[i * params.depth + j];
    inside = inside && key >= 0 && key < extent;
    row = row * extent + key;
  }
  out[i] = select(-1, row, inside);
}`,
});

/** Number of the row that each tuple of indices [.., depth] names in the first axes of a shape; -1 outside. */
function rowIds(indices: Tensor, dims: readonly number[]): Tensor {
  const count = indices.size / dims.length;
  const out = indices.gpu.empty([count], "i32");
  const padded = [...dims, ...Array<number>(8 - dims.length).fill(1)];
  indices.gpu.run(idsKernel, {
    bindings: { indices, out },
    params: { count, depth: dims.length, dimsLow: padded.slice(0, 4), dimsHigh: padded.slice(4) },
    workgroups: grid1d(Math.ceil(count / 64)),
  });
  return out;
}

interface ScatterVariant {
  readonly dtype: DType;
  readonly reduction: ScatterReduction;
}

/** Type in which a dtype is computed. */
const computed = (dtype: DType): string => (isFloat(dtype) ? "f32" : dtype);

/** WGSL of `combine`, in the order of the updates; NaN spreads through max and min. */
function combine({ dtype, reduction }: ScatterVariant): string {
  const C = computed(dtype);
  const nan = (x: string): string =>
    isFloat(dtype) ? `(bitcast<u32>(${x}) & 0x7fffffffu) > 0x7f800000u` : "false";
  const better = reduction === "max" ? "b > a" : "b < a";
  const body = {
    none: "return b;",
    add: "return a + b;",
    mul: "return a * b;",
    max: `return select(a, b, ${nan("b")} || (!(${nan("a")}) && ${better}));`,
    min: `return select(a, b, ${nan("b")} || (!(${nan("a")}) && ${better}));`,
  }[reduction];
  return `fn combine(a: ${C}, b: ${C}) -> ${C} { ${body} }`;
}

const main = /* wgsl */ `
${flatMain("i", "params.rows * params.inner")}
  let row = i / params.inner;
  let c = i % params.inner;
  let first = offsets[row];
  let last = offsets[row + 1u];`;
const params = { rows: "u32", inner: "u32" } as const;

const scatterKernel = defineKernel({
  name: "scatterRows",
  bindings: (v: ScatterVariant) => ({
    x: `read ${v.dtype}`,
    updates: `read ${v.dtype}`,
    offsets: "read u32",
    order: "read u32",
    out: `write ${v.dtype}`,
  }),
  params,
  wgsl: (v) => /* wgsl */ `
${combine(v)}
${main}
  var value = ${computed(v.dtype)}(x[i]);
  for (var j = first; j < last; j++) { value = combine(value, ${computed(v.dtype)}(updates[order[j] * params.inner + c])); }
  out[i] = ${v.dtype}(value);
}`,
});

/** Gradient text of an element and of the updates that reached it; `g` is the gradient of the result. */
function gradients(reduction: ScatterReduction): string {
  const update = "order[j] * params.inner + c";
  switch (reduction) {
    case "none":
      return `dx[i] = T(select(0.0, g, first == last));
  if (first < last) { let j = last - 1u; du[${update}] = T(g); }`;
    case "add":
      return `dx[i] = T(g);
  for (var j = first; j < last; j++) { du[${update}] = T(g); }`;
    case "mul":
      // The product of the others: a quotient would be NaN at 0.
      return `var all = g;
  for (var j = first; j < last; j++) {
    all *= f32(updates[${update}]);
    var rest = g * f32(x[i]);
    for (var k = first; k < last; k++) { if (k != j) { rest *= f32(updates[order[k] * params.inner + c]); } }
    du[${update}] = T(rest);
  }
  dx[i] = T(all);`;
    default: {
      const better = reduction === "max" ? ">" : "<";
      return `var best = f32(x[i]);
  var winner = last;
  for (var j = first; j < last; j++) {
    let y = f32(updates[${update}]);
    if (y ${better} best) { best = y; winner = j; }
  }
  dx[i] = T(select(0.0, g, winner == last));
  if (winner < last) { let j = winner; du[${update}] = T(g); }`;
    }
  }
}

const backwardKernel = defineKernel({
  name: "scatterRowsBackward",
  bindings: (v: ScatterVariant) => ({
    grad: `read ${v.dtype}`,
    x: `read ${v.dtype}`,
    updates: `read ${v.dtype}`,
    offsets: "read u32",
    order: "read u32",
    dx: `write ${v.dtype}`,
    du: `read_write ${v.dtype}`,
  }),
  params,
  wgsl: (v) => /* wgsl */ `
alias T = ${v.dtype};
${main}
  let g = f32(grad[i]);
  ${gradients(v.reduction)}
}`,
});

/** Write rows of updates over the rows of x that `ids` names, in the order of the updates. */
function scatterRows(
  who: string,
  x: Tensor,
  updates: Tensor,
  ids: Tensor,
  rows: number,
  reduction: ScatterReduction,
): Tensor {
  const { gpu, dtype } = x;
  const call = {
    variant: { dtype, reduction },
    params: { rows, inner: x.size / Math.max(rows, 1) },
    workgroups: grid1d(Math.ceil(x.size / 64)),
  };
  return applyOp({
    name: who,
    inputs: [x, updates, ids],
    forward: () => {
      const out = gpu.empty(x.shape, dtype);
      if (x.size === 0) return { outputs: [out] };
      const { offsets, order } = groupBy(ids, rows);
      gpu.run(scatterKernel, { ...call, bindings: { x, updates, offsets, order, out } });
      return { outputs: [out] };
    },
    backward: ({ grads }) => {
      const dx = gpu.empty(x.shape, dtype);
      const du = gpu.zeros(updates.shape, dtype);
      if (x.size === 0) return [dx, du, undefined];
      const { offsets, order } = groupBy(ids, rows);
      gpu.run(backwardKernel, {
        ...call,
        bindings: { grad: grads[0]!, x, updates, offsets, order, dx, du },
      });
      return [dx, du, undefined];
    },
  })[0]!;
}

export interface ScatterOptions {
  /** How updates meet what is there, and each other; default "none": the last update stays. */
  readonly reduction?: ScatterReduction;
}

/** Check tuples of indices, and return their length. */
function depthOf(who: string, x: Tensor, indices: Tensor, batchDims: number): number {
  expectTensors(who, { x, indices });
  expectDType(who, "indices", indices, "i32");
  const depth = indices.shape.at(-1) ?? 0;
  if (depth === 0 || depth + batchDims > Math.min(x.rank, 8))
    throw new ShapeError(
      who,
      `indices have shape ${showShape(indices.shape)}; their last axis must hold 1..${Math.min(x.rank, 8) - batchDims} indices for x ${showShape(x.shape)}`,
    );
  return depth;
}

/** The index along one axis of each element of a shape, as a tensor. */
function positions(like: Tensor, shape: readonly number[], axis: number): Tensor {
  const inner = sizeOf(shape.slice(axis + 1));
  const extent = shape[axis]!;
  const at = Array.from({ length: sizeOf(shape) }, (_, i) => Math.floor(i / inner) % extent);
  return like.gpu.tensor(at, shape, "i32");
}

/** Tuples of indices, from one tensor of indices for each axis. */
const tuples = (columns: readonly Tensor[]): Tensor => stack(columns, -1);

/**
 * Elements or slices of x by tuples of indices: out[i] = x[indices[i, 0], .., indices[i, k - 1], ..].
 *
 * x of any dtype, indices i32 [.., k]; result [..indices without k, ..x after the k axes]. The first `batchDims` axes
 * of both are equal and are walked together. A tuple outside x gives NaN (0 for integers). Differentiable in x.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function gatherND(x: Tensor, indices: Tensor, options: { readonly batchDims?: number } = {}): Tensor {
  const who = "gatherND";
  checkConfig(who, options, ["batchDims"]);
  const { batchDims = 0 } = options;
  expectInteger(who, "batchDims", batchDims, 0, 7);
  const depth = depthOf(who, x, indices, batchDims);
  if (indices.rank <= batchDims || x.shape.slice(0, batchDims).some((n, i) => n !== indices.shape[i]))
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)}, indices ${showShape(indices.shape)}; their first ${batchDims} axes must be equal`,
    );
  const whole = batchDims + depth;
  const lead = indices.shape.slice(0, -1);
  return x.gpu.scope(() => {
    const split = Array.from({ length: depth }, (_, j) => column(indices, j, lead));
    const batch = Array.from({ length: batchDims }, (_, axis) => positions(x, lead, axis));
    const all = batchDims === 0 ? indices : tuples([...batch, ...split]);
    const ids = rowIds(all, x.shape.slice(0, whole)).reshape(lead);
    const rest = x.shape.slice(whole);
    return gather(x.reshape([sizeOf(x.shape.slice(0, whole)), ...rest]), ids, 0);
  });
}

/** One index of each tuple. */
function column(indices: Tensor, j: number, lead: readonly number[]): Tensor {
  const at = indices.gpu.tensor([j], [1], "i32");
  return gather(indices, at, indices.rank - 1).reshape(lead);
}

/**
 * x with elements or slices written over by tuples of indices: out[indices[i, 0], .., indices[i, k - 1], ..] is
 * updates[i, ..], or what it was combined with updates[i, ..] by the reduction.
 *
 * x of any dtype, indices i32 [.., k], updates [..indices without k, ..x after the k axes]. Updates that meet are
 * applied in their order, so that the result is repeatable; those outside x are left out. Differentiable in x and
 * updates; of equal elements of `max` and `min` the first one gets the gradient.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function scatterND(x: Tensor, indices: Tensor, updates: Tensor, options: ScatterOptions = {}): Tensor {
  const who = "scatterND";
  checkConfig(who, options, ["reduction"]);
  const { reduction = "none" } = options;
  expectOneOf(who, "reduction", reduction, REDUCTIONS);
  const depth = depthOf(who, x, indices, 0);
  expectTensors(who, { updates });
  if (updates.dtype !== x.dtype)
    throw new DTypeError(who, `updates are ${updates.dtype}, x is ${x.dtype}; they must be equal`);
  const shape = [...indices.shape.slice(0, -1), ...x.shape.slice(depth)];
  if (updates.rank !== shape.length || updates.shape.some((n, i) => n !== shape[i]))
    throw new ShapeError(
      who,
      `updates have shape ${showShape(updates.shape)}; for x ${showShape(x.shape)} and indices ${showShape(indices.shape)} it must be ${showShape(shape)}`,
    );
  const dims = x.shape.slice(0, depth);
  return x.gpu.scope(() => scatterRows(who, x, updates, rowIds(indices, dims), sizeOf(dims), reduction));
}

/**
 * x with elements written over along an axis: for axis 0 out[indices[i, j], j] is updates[i, j], or what it was
 * combined with updates[i, j] by the reduction.
 *
 * x of any dtype, indices i32 and updates of one shape, of the rank of x and nowhere larger but along the axis. Order,
 * indices outside and gradients as in `scatterND`.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function scatterElements(
  x: Tensor,
  indices: Tensor,
  updates: Tensor,
  options: ScatterOptions & { readonly axis?: number } = {},
  ...rest: never[]
): Tensor {
  const who = "scatterElements";
  checkConfig(who, options, ["axis", "reduction"]);
  expectNoMore(who, rest);
  expectTensors(who, { x, indices, updates });
  expectDType(who, "indices", indices, "i32");
  const { axis = 0, ...how } = options;
  const along = normalizeAxis(who, axis, x.rank);
  const fits = (t: Tensor): boolean => t.rank === x.rank && t.shape.every((n, i) => n === indices.shape[i]);
  if (!fits(indices) || !fits(updates) || indices.shape.some((n, i) => i !== along && n > x.shape[i]!))
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)}, indices ${showShape(indices.shape)}, updates ${showShape(updates.shape)}; indices and updates must have one shape, and none but axis ${along} may be larger than that of x`,
    );
  return x.gpu.scope(() => {
    const columns = x.shape.map((_, i) => (i === along ? indices : positions(x, indices.shape, i)));
    return scatterND(x, tuples(columns), updates, how);
  });
}
