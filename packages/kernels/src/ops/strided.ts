import { ShapeError } from "../base/errors.js";
import { flatMain } from "../kernel/flat_grid.js";
import type { DType } from "../base/dtype.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import type { Tensor } from "../tensor/tensor.js";

interface StridedVariant {
  readonly dtype: DType;
  readonly vec: boolean;
}

/** to[toOffset + sum i toStride] = from[fromOffset + sum i fromStride] for every index i of `dims` (six axes). */
const stridedKernel = defineKernel({
  name: "stridedCopy",
  bindings: (v: StridedVariant) => {
    const element = v.vec ? `vec4<${v.dtype}>` : v.dtype;
    return { from_: `read ${element}`, to: `read_write ${element}` };
  },
  params: {
    dimsLow: "vec4<u32>",
    fromLow: "vec4<i32>",
    toLow: "vec4<i32>",
    dimsHigh: "vec4<u32>",
    fromHigh: "vec4<i32>",
    toHigh: "vec4<i32>",
    fromOffset: "i32",
    toOffset: "i32",
    count: "u32",
  },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("index", params.count)}
  var i = index;
  var source = params.fromOffset;
  var target_ = params.toOffset;
  ${["High", "Low"]
    .flatMap((half) =>
      ["w", "z", "y", "x"].map(
        (c) => `{ let n = i32(i % params.dims${half}.${c}); i /= params.dims${half}.${c};
    source += n * params.from${half}.${c}; target_ += n * params.to${half}.${c}; }`,
      ),
    )
    .slice(0, 6)
    .join("\n  ")}
  to[target_] = from_[source];
}`,
});

const MAX_AXES = 6;

/** One side of a strided copy: a tensor, where its first element lies, and the step of each axis. */
export interface StridedView {
  readonly tensor: Tensor;
  readonly offset?: number;
  readonly strides: readonly number[];
}

/** Row-major steps of a shape. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * shape[i + 1]!;
  return strides;
}

/** Copy `dims` elements between strided views of equal dtype, outside the tape. */
export function stridedCopy(who: string, dims: readonly number[], from: StridedView, to: StridedView): void {
  if (dims.some((n) => n === 0)) return;
  // Merge neighbours that both sides walk alike, and drop axes of one.
  const axes: { n: number; f: number; t: number }[] = [];
  for (let i = dims.length - 1; i >= 0; i--) {
    const [n, f, t] = [dims[i]!, from.strides[i]!, to.strides[i]!];
    if (n === 1) continue;
    const inner = axes[0];
    if (inner && f === inner.f * inner.n && t === inner.t * inner.n) inner.n *= n;
    else axes.unshift({ n, f, t });
  }
  if (axes.length > MAX_AXES) throw new ShapeError(who, `needs more than ${String(MAX_AXES)} separate axes`);
  const last = axes.at(-1);
  const { offset: fromOffset = 0 } = from;
  const { offset: toOffset = 0 } = to;
  const even = (x: number): boolean => x % 4 === 0;
  const vec =
    last !== undefined &&
    last.f === 1 &&
    last.t === 1 &&
    even(last.n) &&
    even(fromOffset) &&
    even(toOffset) &&
    axes.slice(0, -1).every((a) => even(a.f) && even(a.t));
  const unit = vec ? 4 : 1;
  const scaled = axes.map((a, i) =>
    i === axes.length - 1 ? { ...a, n: a.n / unit } : { n: a.n, f: a.f / unit, t: a.t / unit },
  );
  while (scaled.length < 8) scaled.unshift({ n: 1, f: 0, t: 0 });
  const count = scaled.reduce((size, a) => size * a.n, 1);
  const pick = (key: "n" | "f" | "t", start: number): number[] =>
    scaled.slice(start, start + 4).map((a) => a[key]);
  from.tensor.gpu.run(stridedKernel, {
    variant: { dtype: from.tensor.dtype, vec },
    bindings: { from_: from.tensor, to: to.tensor },
    params: {
      dimsLow: pick("n", 0),
      fromLow: pick("f", 0),
      toLow: pick("t", 0),
      dimsHigh: pick("n", 4),
      fromHigh: pick("f", 4),
      toHigh: pick("t", 4),
      fromOffset: fromOffset / unit,
      toOffset: toOffset / unit,
      count,
    },
    workgroups: grid1d(Math.ceil(count / 64)),
  });
}
