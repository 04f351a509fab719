import { flatMain, groupMain } from "../kernel/flat_grid.js";
import { ShapeError } from "../base/errors.js";
import type { DType } from "../base/dtype.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectBoolean,
  expectInteger,
  expectNoMore,
  expectTensor,
  normalizeAxis,
  showShape,
} from "../base/validate.js";
import { orderKey } from "./order.wgsl.js";
import { alongAxis, slice } from "./shape.js";

/** Elements that one workgroup sorts in workgroup memory. */
const BLOCK = 1024;

interface KeyVariant {
  readonly dtype: DType;
  readonly descending: boolean;
}

const prepareKernel = defineKernel({
  name: "sortPrepare",
  bindings: (v: KeyVariant) => ({ x: `read ${v.dtype}`, pairs: "write vec2<u32>" }),
  params: { width: "u32", padded: "u32", count: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${orderKey(v.dtype)}
${flatMain("i", params.count)}
  let at = i % params.padded;
  var key = 0xffffffffu;
  if (at < params.width) { key = order_key(x[i / params.padded * params.width + at]); }
  ${v.descending ? "if (at < params.width) { key = ~key; }" : ""}
  // Padding comes last: its position is larger than any other.
  pairs[i] = vec2u(key, at);
}`,
});

const after = "fn after(a: vec2u, b: vec2u) -> bool { return a.x > b.x || (a.x == b.x && a.y > b.y); }";

/** Bitonic stages inside blocks: all of them (`from` = 2) or the last of a larger stage (`from` = `to`). */
const localKernel = defineKernel({
  name: "sortLocal",
  bindings: { pairs: "read_write vec2<u32>" },
  params: { block: "u32", from_: "u32", to: "u32", padded: "u32" },
  wgsl: () => /* wgsl */ `
${after}
var<workgroup> local: array<vec2u, ${String(BLOCK)}>;
${groupMain("block")}
  let base = block * params.block;
  for (var i = lane; i < params.block; i += 64u) { local[i] = pairs[base + i]; }
  for (var stage = params.from_; stage <= params.to; stage <<= 1u) {
    for (var step = min(stage, params.block) >> 1u; step > 0u; step >>= 1u) {
      workgroupBarrier();
      for (var t = lane; t < params.block / 2u; t += 64u) {
        let i = 2u * t - (t & (step - 1u));
        let j = i + step;
        let up = (((base + i) % params.padded) & stage) == 0u;
        let a = local[i];
        let b = local[j];
        if (after(a, b) == up) { local[i] = b; local[j] = a; }
      }
    }
  }
  workgroupBarrier();
  for (var i = lane; i < params.block; i += 64u) { pairs[base + i] = local[i]; }
}`,
});

const stepKernel = defineKernel({
  name: "sortStep",
  bindings: { pairs: "read_write vec2<u32>" },
  params: { stage: "u32", step: "u32", padded: "u32", count: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
${after}
${flatMain("t", params.count)}
  let i = 2u * t - (t & (params.step - 1u));
  let j = i + params.step;
  let up = ((i % params.padded) & params.stage) == 0u;
  let a = pairs[i];
  let b = pairs[j];
  if (after(a, b) == up) { pairs[i] = b; pairs[j] = a; }
}`,
});

const finishKernel = defineKernel({
  name: "sortFinish",
  bindings: (v: { dtype: string }) => ({
    x: `read ${v.dtype}`,
    pairs: "read vec2<u32>",
    values: `write ${v.dtype}`,
    indices: "write i32",
  }),
  params: { width: "u32", padded: "u32", count: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let row = i / params.width;
  let at = pairs[row * params.padded + i % params.width].y;
  values[i] = x[row * params.width + at];
  indices[i] = i32(at);
}`,
});

interface PlaceVariant {
  readonly dtype: string;
}

/** dx[row, indices[row, j]] = g[row, j]: the indices of a row differ from each other. */
const placeKernel = defineKernel({
  name: "sortBackward",
  bindings: (v: PlaceVariant) => ({
    g: `read ${v.dtype}`,
    indices: "read i32",
    out: `read_write ${v.dtype}`,
  }),
  params: { width: "u32", taken: "u32", count: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  out[i / params.taken * params.width + u32(indices[i])] = g[i];
}`,
});

function placeBack(x: Tensor, g: Tensor, indices: Tensor, taken: number): Tensor {
  const out = x.gpu.zeros(x.shape, x.dtype);
  x.gpu.run(placeKernel, {
    variant: { dtype: x.dtype },
    bindings: { g, indices, out },
    params: { width: x.shape.at(-1)!, taken, count: g.size },
    workgroups: grid1d(Math.ceil(g.size / 64)),
  });
  return out;
}

export interface SortOptions {
  /** Largest first. */
  readonly descending?: boolean;
  /** Axis that is sorted; default the last. */
  readonly axis?: number;
}

/** Values along an axis, and the positions (i32) that they had. */
export interface Sorted {
  readonly values: Tensor;
  readonly indices: Tensor;
}

/** Check the tensor and the axis of an op that sorts, and apply it along that axis. */
function sortedAlong(who: string, x: Tensor, axis: number, rows: (x: Tensor) => Sorted): Sorted {
  expectTensor(who, "x", x);
  if (x.rank === 0) throw new ShapeError(who, "x is a scalar; it must have at least one axis");
  const [values, indices] = alongAxis(who, x, axis, (y) => {
    const sorted = rows(y);
    return [sorted.values, sorted.indices];
  });
  return { values: values!, indices: indices! };
}

/**
 * Sort along an axis, the last by default; equal elements keep their order. NaN counts as larger than all, and -0
 * equals 0. x of any dtype; the gradient of the values goes back to where they came from.
 *
 * @throws ShapeError, ConfigError
 */
export function sort(x: Tensor, options: SortOptions = {}): Sorted {
  checkConfig("sort", options, ["descending", "axis"]);
  const { descending = false, axis = -1 } = options;
  expectBoolean("sort", "descending", descending);
  return sortedAlong("sort", x, axis, (y) => sortRows(y, descending));
}

function sortRows(x: Tensor, descending: boolean): Sorted {
  const { gpu } = x;
  const width = x.shape.at(-1)!;
  const [values, indices] = applyOp({
    name: "sort",
    inputs: [x],
    forward: () => {
      const out = gpu.empty(x.shape, x.dtype);
      const positions = gpu.empty(x.shape, "i32");
      if (x.size === 0) return { outputs: [out, positions] };
      const rows = x.size / width;
      const padded = Math.max(2, 2 ** Math.ceil(Math.log2(width)));
      const total = rows * padded;
      // A pair is two words; the tensor is only a buffer for them.
      const pairs = gpu.empty([total, 2], "u32");
      const items = (n: number): [number, number] => grid1d(Math.ceil(n / 64));
      gpu.run(prepareKernel, {
        variant: { dtype: x.dtype, descending },
        bindings: { x, pairs },
        params: { width, padded, count: total },
        workgroups: items(total),
      });
      const block = Math.min(padded, BLOCK);
      const local = (from: number, to: number): void => {
        gpu.run(localKernel, {
          bindings: { pairs },
          params: { block, from_: from, to, padded },
          workgroups: grid1d(total / block),
        });
      };
      local(2, block);
      for (let stage = block * 2; stage <= padded; stage *= 2) {
        for (let step = stage / 2; step >= block; step /= 2) {
          gpu.run(stepKernel, {
            bindings: { pairs },
            params: { stage, step, padded, count: total / 2 },
            workgroups: items(total / 2),
          });
        }
        local(stage, stage);
      }
      gpu.run(finishKernel, {
        variant: { dtype: x.dtype },
        bindings: { x, pairs, values: out, indices: positions },
        params: { width, padded, count: x.size },
        workgroups: items(x.size),
      });
      return { outputs: [out, positions] };
    },
    backward: ({ grads, outputs }) => [grads[0] ? placeBack(x, grads[0], outputs[1]!, width) : undefined],
  });
  return { values: values!, indices: indices! };
}

/** Positions (i32) that sort an axis, the last by default. */
export function argsort(x: Tensor, options: SortOptions = {}): Tensor {
  expectTensor("argsort", "x", x);
  return x.gpu.scope(() => sort(x, options).indices);
}

/** Largest k that a thread keeps in registers. */
const SMALL_K = 16;
const SMALL_WIDTH = 1024;

interface TopVariant {
  readonly dtype: DType;
  readonly largest: boolean;
}

const topkKernel = defineKernel({
  name: "topk",
  bindings: (v: TopVariant) => ({
    x: `read ${v.dtype}`,
    values: `write ${v.dtype}`,
    indices: "write i32",
  }),
  params: { rows: "u32", width: "u32", k: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${orderKey(v.dtype)}
${flatMain("row", params.rows)}
  var keys: array<u32, ${String(SMALL_K)}>;
  var at: array<u32, ${String(SMALL_K)}>;
  var held = 0u;
  for (var i = 0u; i < params.width; i++) {
    let key = ${v.largest ? "" : "~"}order_key(x[row * params.width + i]);
    if (held == params.k && key <= keys[held - 1u]) { continue; }
    // Insert after the larger and the equal ones, which came first.
    var j = min(held, params.k - 1u);
    while (j > 0u && keys[j - 1u] < key) { keys[j] = keys[j - 1u]; at[j] = at[j - 1u]; j--; }
    keys[j] = key;
    at[j] = i;
    held = min(held + 1u, params.k);
  }
  for (var j = 0u; j < params.k; j++) {
    values[row * params.k + j] = ${v.dtype}(x[row * params.width + at[j]]);
    indices[row * params.k + j] = i32(at[j]);
  }
}`,
});

export interface TopkOptions {
  /** Axis that is searched; default the last. */
  readonly axis?: number;
  /** False: the k smallest, in rising order. */
  readonly largest?: boolean;
}

/**
 * The k largest along an axis, the last by default, in falling order, and their positions (i32); of equal elements
 * those of lower position come first. NaN counts as larger than all. x of any dtype.
 *
 * @throws ShapeError, ConfigError
 */
export function topk(x: Tensor, k: number, options: TopkOptions = {}, ...rest: never[]): Sorted {
  const who = "topk";
  checkConfig(who, options, ["axis", "largest"]);
  expectNoMore(who, rest);
  const { axis = -1, largest = true } = options;
  expectBoolean(who, "largest", largest);
  expectInteger(who, "k", k, 1);
  return sortedAlong(who, x, axis, (y) => {
    const width = y.shape.at(-1)!;
    if (k > width) {
      const along = normalizeAxis(who, axis, x.rank);
      throw new ShapeError(who, `k is ${k}; axis ${along} of ${showShape(x.shape)} has ${width}`);
    }
    if (k <= SMALL_K && width <= SMALL_WIDTH) return topkRows(y, k, largest);
    return x.gpu.scope(() => {
      const sorted = sortRows(y, largest);
      const first = { axis: -1, end: k };
      return { values: slice(sorted.values, first), indices: slice(sorted.indices, first) };
    });
  });
}

function topkRows(x: Tensor, k: number, largest: boolean): Sorted {
  const width = x.shape.at(-1)!;
  const shape = [...x.shape.slice(0, -1), k];
  const rows = x.size / width;
  const [values, indices] = applyOp({
    name: "topk",
    inputs: [x],
    forward: () => {
      const out = x.gpu.empty(shape, x.dtype);
      const positions = x.gpu.empty(shape, "i32");
      x.gpu.run(topkKernel, {
        variant: { dtype: x.dtype, largest },
        bindings: { x, values: out, indices: positions },
        params: { rows, width, k },
        workgroups: grid1d(Math.ceil(rows / 64)),
      });
      return { outputs: [out, positions] };
    },
    backward: ({ grads, outputs }) => [grads[0] ? placeBack(x, grads[0], outputs[1]!, k) : undefined],
  });
  return { values: values!, indices: indices! };
}
