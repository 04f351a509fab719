import { flatMain } from "../kernel/flat_grid.js";
import { DTypeError } from "../base/errors.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import type { Tensor } from "../tensor/tensor.js";
import { expectInteger, expectNoMore, expectTensor } from "../base/validate.js";

/** Positions of a list sorted by key, keeping their order within a key. */
export interface Grouping {
  /** u32 [buckets + 1]: where each bucket starts in `order`. */
  readonly offsets: Tensor;
  /** u32 [n]: positions of the list, bucket after bucket, increasing within a bucket. */
  readonly order: Tensor;
}

const WIDE = 64;

/** Few buckets: one workgroup, a thread per bucket reads the whole list twice. */
const fewKernel = defineKernel({
  name: "groupFew",
  bindings: { ids: "read i32", offsets: "write u32", order: "write u32" },
  params: { count: "u32", buckets: "u32" },
  wgsl: () => /* wgsl */ `
var<workgroup> counts: array<u32, ${String(WIDE)}>;
@compute @workgroup_size(${String(WIDE)})
fn main(@builtin(local_invocation_index) bucket: u32) {
  var n = 0u;
  for (var i = 0u; i < params.count; i++) { n += select(0u, 1u, ids[i] == i32(bucket)); }
  counts[bucket] = n;
  workgroupBarrier();
  if (bucket >= params.buckets) { return; }
  var at = 0u;
  for (var b = 0u; b < bucket; b++) { at += counts[b]; }
  offsets[bucket] = at;
  if (bucket + 1u == params.buckets) { offsets[params.buckets] = at + n; }
  if (n == 0u) { return; }
  for (var i = 0u; i < params.count; i++) {
    if (ids[i] == i32(bucket)) { order[at] = i; at++; }
  }
}`,
});

const countKernel = defineKernel({
  name: "groupCount",
  bindings: { ids: "read i32", counts: "read_write atomic<u32>" },
  params: { count: "u32", buckets: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let key = ids[i];
  if (key >= 0 && u32(key) < params.buckets) { atomicAdd(&counts[key], 1u); }
}`,
});

const startsKernel = defineKernel({
  name: "groupStarts",
  bindings: { counts: "read u32", offsets: "write u32", cursor: "write u32" },
  params: { buckets: "u32" },
  wgsl: () => /* wgsl */ `
var<workgroup> sums: array<u32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
  let chunk = (params.buckets + 63u) / 64u;
  let first = min(lane * chunk, params.buckets);
  let last = min(first + chunk, params.buckets);
  var n = 0u;
  for (var b = first; b < last; b++) { n += counts[b]; }
  sums[lane] = n;
  workgroupBarrier();
  var at = 0u;
  for (var l = 0u; l < lane; l++) { at += sums[l]; }
  for (var b = first; b < last; b++) {
    offsets[b] = at;
    cursor[b] = at;
    at += counts[b];
  }
  if (lane == 63u) { offsets[params.buckets] = at; }
}`,
});

const placeKernel = defineKernel({
  name: "groupPlace",
  bindings: { ids: "read i32", cursor: "read_write atomic<u32>", order: "write u32" },
  params: { count: "u32", buckets: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let key = ids[i];
  if (key >= 0 && u32(key) < params.buckets) { order[atomicAdd(&cursor[key], 1u)] = i; }
}`,
});

/** Atomics fill a bucket in any order; heapsort puts its positions in increasing order, so results are repeatable. */
const orderKernel = defineKernel({
  name: "groupOrder",
  bindings: { offsets: "read u32", order: "read_write u32" },
  params: { buckets: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
fn sift(first: u32, root: u32, count: u32) {
  let value = order[first + root];
  var hole = root;
  loop {
    var child = 2u * hole + 1u;
    if (child >= count) { break; }
    if (child + 1u < count && order[first + child + 1u] > order[first + child]) { child++; }
    if (order[first + child] <= value) { break; }
    order[first + hole] = order[first + child];
    hole = child;
  }
  order[first + hole] = value;
}
${flatMain("b", params.buckets)}
  let first = offsets[b];
  let count = offsets[b + 1u] - first;
  if (count < 2u) { return; }
  for (var i = count / 2u; i > 0u; i--) { sift(first, i - 1u, count); }
  for (var end = count - 1u; end > 0u; end--) {
    let top = order[first];
    order[first] = order[first + end];
    order[first + end] = top;
    sift(first, 0u, end);
  }
}`,
});

/**
 * Group the positions of `ids` (i32, any shape) by value: a stable counting sort, outside the tape. Values outside
 * 0..buckets-1 belong to no bucket. The result does not depend on the order in which the GPU works.
 */
export function groupBy(ids: Tensor, buckets: number, ...rest: never[]): Grouping {
  expectTensor("groupBy", "ids", ids);
  expectNoMore("groupBy", rest);
  if (ids.dtype !== "i32") throw new DTypeError("groupBy", `ids are ${ids.dtype}; they must be i32`);
  expectInteger("groupBy", "buckets", buckets, 1);
  const { gpu } = ids;
  const count = ids.size;
  const offsets = gpu.empty([buckets + 1], "u32");
  const order = gpu.empty([count], "u32");
  if (buckets <= WIDE) {
    gpu.run(fewKernel, { bindings: { ids, offsets, order }, params: { count, buckets } });
    return { offsets, order };
  }
  gpu.scope(() => {
    const counts = gpu.zeros([buckets], "u32");
    const cursor = gpu.empty([buckets], "u32");
    const items = grid1d(Math.ceil(count / 64));
    gpu.run(countKernel, { bindings: { ids, counts }, params: { count, buckets }, workgroups: items });
    gpu.run(startsKernel, { bindings: { counts, offsets, cursor }, params: { buckets } });
    gpu.run(placeKernel, { bindings: { ids, cursor, order }, params: { count, buckets }, workgroups: items });
    gpu.run(orderKernel, {
      bindings: { offsets, order },
      params: { buckets },
      workgroups: grid1d(Math.ceil(buckets / 64)),
    });
  });
  return { offsets, order };
}
