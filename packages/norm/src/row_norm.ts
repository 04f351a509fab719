import {
  applyOp,
  cast,
  defineKernel,
  DTypeError,
  expectNumber,
  grid1d,
  mul,
  rowVariant,
  ShapeError,
  showShape,
  sumMiddle,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import {
  backwardBindings,
  columnBindings,
  columnParams,
  forwardBindings,
  rowNormBackward,
  rowNormColumns,
  rowNormForward,
  rowNormParams,
  type Divisor,
  type RowNormVariant,
} from "./row_norm.wgsl.js";

const forwardKernel: Kernel<RowNormVariant> = defineKernel({
  name: "rowNorm",
  bindings: forwardBindings,
  params: rowNormParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: rowNormForward,
});
const backwardKernel: Kernel<RowNormVariant> = defineKernel({
  name: "rowNormBackward",
  bindings: backwardBindings,
  params: rowNormParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: rowNormBackward,
});
const columnKernel: Kernel<RowNormVariant> = defineKernel({
  name: "rowNormBackwardWeight",
  bindings: columnBindings,
  params: columnParams,
  wgsl: rowNormColumns,
});

/** What the norms over a token's features have in common. */
export interface RowNormSpec {
  readonly who: string;
  /** Subtract the mean. */
  readonly center?: boolean;
  readonly divisor: Divisor;
  readonly eps: number;
  /** Features in the statistic; default all. */
  readonly k?: number;
  /** Added to the weight. */
  readonly offset?: number;
  readonly weight?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
  /** Normalise residualScale residual + x. */
  readonly residual?: Tensor | undefined;
  readonly residualScale?: number;
}

/** The normalised rows, and the sum that was normalised (x itself without a residual). */
export interface RowNormResult {
  readonly out: Tensor;
  readonly residual: Tensor;
}

/** out = (x - mean) / r (offset + weight) + bias over the last axis, one kernel forward and two backward. */
export function rowNorm(x: Tensor, spec: RowNormSpec): RowNormResult {
  const { who, center = false, divisor, eps, offset = 0, weight, bias, residual, residualScale = 1 } = spec;
  const width = x.shape.at(-1) ?? 0;
  if (width === 0)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; its last axis must not be empty`);
  for (const [name, t] of Object.entries({ x, weight, bias, residual })) {
    if (t && t.dtype !== "f32" && t.dtype !== "f16")
      throw new DTypeError(who, `${name} is ${t.dtype}; it must be f32 or f16`);
  }
  for (const [name, t] of Object.entries({ weight, bias })) {
    if (t && (t.rank !== 1 || t.size !== width)) {
      throw new ShapeError(
        who,
        `${name} has shape ${showShape(t.shape)}; it must be [${width}] (x is ${showShape(x.shape)})`,
      );
    }
  }
  if (residual) {
    if (residual.dtype !== x.dtype)
      throw new DTypeError(who, `residual is ${residual.dtype}, x is ${x.dtype}; they must be equal`);
    if (residual.rank !== x.rank || residual.shape.some((n, i) => n !== x.shape[i])) {
      throw new ShapeError(
        who,
        `residual has shape ${showShape(residual.shape)}; it must be x's, ${showShape(x.shape)}`,
      );
    }
  }
  expectNumber(who, "eps", eps, 0);
  const { gpu } = x;
  const k = spec.k ?? width;
  const rows = x.size / width;
  const variant: RowNormVariant = {
    ...rowVariant(x, width),
    center,
    divisor,
    weight: weight?.dtype,
    bias: bias?.dtype,
    partial: k < width,
    residual: residual !== undefined,
  };
  const call = {
    variant,
    params: { rows, width, k, eps, offset, residual_scale: residualScale },
    workgroups: grid1d(rows),
  };
  const present = (name: string, t: Tensor | undefined): Record<string, Tensor> => (t ? { [name]: t } : {});
  const outputs = applyOp({
    name: who,
    inputs: [x, weight, bias, residual],
    forward: () => {
      const out = gpu.empty(x.shape, x.dtype);
      const stats = gpu.empty([rows, 2]);
      const total = residual ? gpu.empty(x.shape, x.dtype) : undefined;
      gpu.run(forwardKernel, {
        ...call,
        bindings: {
          x,
          out,
          stats,
          ...present("weight", weight),
          ...present("bias", bias),
          ...present("residual", residual),
          ...present("total", total),
        },
      });
      return { outputs: total ? [out, total] : [out], saved: [stats] };
    },
    backward: ({ grads, outputs, saved, needs }) => {
      const stats = saved[0]!;
      const source = residual ? outputs[1]! : x;
      const grad = grads[0] ?? gpu.zeros(x.shape, x.dtype);
      let dx: Tensor | undefined;
      if (needs[0] || needs[3]) {
        dx = gpu.empty(x.shape, x.dtype);
        const more = residual ? (grads[1] ?? gpu.zeros(x.shape, x.dtype)) : undefined;
        gpu.run(backwardKernel, {
          ...call,
          bindings: { x: source, grad, stats, dx, ...present("weight", weight), ...present("more", more) },
        });
      }
      let dweight: Tensor | undefined;
      let dbias: Tensor | undefined;
      if (needs[1] || needs[2]) {
        const pieces = variant.vec ? width / 4 : width;
        const chunks = Math.max(1, Math.min(Math.ceil(rows / 16), Math.ceil(2048 / pieces)));
        const partialWeight = gpu.empty([chunks, width]);
        const partialBias = gpu.empty([chunks, width]);
        gpu.run(columnKernel, {
          variant,
          bindings: { x: source, grad, stats, dweight: partialWeight, dbias: partialBias },
          params: { rows, width, k, eps, chunk: Math.ceil(rows / chunks), chunks },
          workgroups: grid1d(Math.ceil((chunks * pieces) / 64)),
        });
        const fold = (t: Tensor, like: Tensor): Tensor =>
          cast(sumMiddle(t, 1, chunks, width).reshape([width]), like.dtype);
        if (weight && needs[1]) dweight = fold(partialWeight, weight);
        if (bias && needs[2]) dbias = fold(partialBias, bias);
      }
      const dresidual = dx && residual && needs[3] ? scaled(dx, residualScale) : undefined;
      return [needs[0] ? dx : undefined, dweight, dbias, dresidual];
    },
  });
  return { out: outputs[0]!, residual: outputs[1] ?? x };
}

function scaled(x: Tensor, factor: number): Tensor {
  return factor === 1 ? x : mul(x, factor);
}
