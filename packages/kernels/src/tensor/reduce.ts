import { flatMain, groupMain } from "../kernel/flat_grid.js";
import { foldLanes } from "../kernel/fold_lanes.js";
import { runFlat } from "../kernel/flat_run.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import type { Tensor } from "./tensor.js";

interface AddVariant {
  readonly dtype: string;
}

const addKernel = defineKernel({
  name: "accumulate",
  bindings: (v: AddVariant) => ({
    a: `read vec4<${v.dtype}>`,
    b: `read vec4<${v.dtype}>`,
    out: `write vec4<${v.dtype}>`,
  }),
  params: { count: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  out[i] = vec4<${v.dtype}>(vec4f(a[i]) + vec4f(b[i]));
}`,
});

/** a + b for equal shapes and dtypes, outside the tape: how gradients accumulate. */
export function addInto(a: Tensor, b: Tensor): Tensor {
  const out = a.gpu.empty(a.shape, a.dtype);
  runFlat(a.gpu, addKernel, {
    variant: { dtype: a.dtype },
    flat: { a, b, out },
    count: Math.ceil(a.size / 4),
    lanes: 4,
  });
  return out;
}

interface SumVariant {
  readonly from: string;
  readonly to: string;
  /** Rows of the reduced axis lie next to each other (inner extent 1). */
  readonly contiguous: boolean;
}

/** out[o, c, i] = sum of x[o, r, i] over the r of chunk c, in increasing order per thread. */
const sumKernel = defineKernel({
  name: "sumAxis",
  bindings: (v: SumVariant) => ({ x: `read ${v.from}`, out: `write ${v.to}` }),
  params: { outer: "u32", extent: "u32", inner: "u32", chunk: "u32", chunks: "u32" },
  wgsl: (v) =>
    v.contiguous
      ? /* wgsl */ `
var<workgroup> partial: array<f32, 64>;
${groupMain("index")}
  let row = index / params.chunks;
  let first = (index % params.chunks) * params.chunk;
  let last = min(first + params.chunk, params.extent);
  var total = 0.0;
  if (row < params.outer) {
    for (var r = first + lane; r < last; r += 64u) { total += f32(x[row * params.extent + r]); }
  }
  partial[lane] = total;
${foldLanes("partial")}
  if (lane == 0u && row < params.outer) { out[index] = ${v.to}(partial[0]); }
}`
      : /* wgsl */ `
${flatMain("index", "params.outer * params.chunks * params.inner")}
  let i = index % params.inner;
  let c = (index / params.inner) % params.chunks;
  let o = index / (params.inner * params.chunks);
  let first = c * params.chunk;
  let last = min(first + params.chunk, params.extent);
  var total = 0.0;
  for (var r = first; r < last; r++) { total += f32(x[(o * params.extent + r) * params.inner + i]); }
  out[index] = ${v.to}(total);
}`,
});

/** Extent from which a workgroup shares a row. */
const NARROW = 32;

/** x viewed as [outer, extent, inner], summed over the middle; fixed order, float32 accumulation. */
export function sumMiddle(x: Tensor, outer: number, extent: number, inner: number): Tensor {
  const { gpu } = x;
  // A short row is one thread's work; a workgroup would only wait for itself.
  const contiguous = inner === 1 && extent >= NARROW;
  const width = outer * inner;
  // Enough threads to fill a device, then a second pass over the partial sums.
  const chunks = Math.max(
    1,
    contiguous
      ? Math.min(Math.floor(extent / 4096), Math.ceil(256 / Math.max(outer, 1)))
      : Math.min(Math.floor(extent / 16), Math.ceil(2048 / Math.max(width, 1))),
  );
  const to = chunks > 1 ? "f32" : x.dtype;
  const out = gpu.empty([outer, chunks, inner], to);
  const groups = contiguous ? outer * chunks : Math.ceil((width * chunks) / 64);
  gpu.run(sumKernel, {
    variant: { from: x.dtype, to, contiguous },
    bindings: { x, out },
    params: { outer, extent, inner, chunk: Math.ceil(extent / chunks), chunks },
    workgroups: grid1d(groups),
  });
  if (chunks === 1) return out;
  const total = gpu.empty([outer, 1, inner], x.dtype);
  gpu.run(sumKernel, {
    variant: { from: "f32", to: x.dtype, contiguous: inner === 1 },
    bindings: { x: out, out: total },
    params: { outer, extent: chunks, inner, chunk: chunks, chunks: 1 },
    workgroups: grid1d(inner === 1 ? outer : Math.ceil(width / 64)),
  });
  out.dispose();
  return total;
}

/** Sum a gradient down to the shape that was broadcast, outside the tape. */
export function sumToShape(x: Tensor, shape: readonly number[]): Tensor {
  const rank = x.shape.length;
  const padded = [...Array<number>(rank - shape.length).fill(1), ...shape];
  let dims = [...x.shape];
  let value = x;
  for (let axis = 0; axis < rank;) {
    if (padded[axis] === dims[axis]) {
      axis++;
      continue;
    }
    let end = axis;
    let extent = 1;
    while (end < rank && padded[end] === 1) extent *= dims[end++] ?? 1;
    const outer = dims.slice(0, axis).reduce((a, b) => a * b, 1);
    const inner = dims.slice(end).reduce((a, b) => a * b, 1);
    const next = sumMiddle(value, outer, extent, inner);
    if (value !== x) value.dispose();
    value = next;
    dims = dims.map((n, i) => (i >= axis && i < end ? 1 : n));
    axis = end;
  }
  const result = value.alias(shape);
  if (value !== x) value.dispose();
  return result;
}
