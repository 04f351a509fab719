import {
  applyOp,
  cast,
  defineKernel,
  expectDType,
  expectNumber,
  expectShape,
  expectTensor,
  grid1d,
  mul,
  rowVariant,
  ShapeError,
  showShape,
  slice,
  sumMiddle,
  type Gpu,
  type RowVariant,
  type Tensor,
} from "@x/kernels";
import {
  batchOf,
  forwardBindings,
  rowNormForward,
  rowNormParams,
  type Divisor,
  type RowNormVariant,
} from "./row_norm.wgsl.js";
import { backwardBindings, rowNormBackward, type RowNormBackwardVariant } from "./row_norm_backward.wgsl.js";

const forwardKernel = defineKernel({
  name: "rowNorm",
  bindings: forwardBindings,
  params: rowNormParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: rowNormForward,
});
const backwardKernel = defineKernel({
  name: "rowNormBackward",
  bindings: backwardBindings,
  params: rowNormParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: rowNormBackward,
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
  /** One factor for all features, f32 [1]. */
  readonly gain?: Tensor | undefined;
  /** Normalise residualScale residual + x. */
  readonly residual?: Tensor | undefined;
  readonly residualScale?: number;
  /** Rows that a group takes together; default by adapter. */
  readonly block?: 1 | 2 | 4;
}

/** The normalised rows, and the sum that was normalised (x itself without a residual). */
export interface RowNormResult {
  readonly out: Tensor;
  readonly residual: Tensor;
}

/** Four where a GPU compiles them; on a CPU two where rows share loads of the weight: more is too much code for its cache. */
function rowsAtOnce({ lanes }: RowVariant, gpu: Gpu, rows: number, shared: boolean): 1 | 2 | 4 {
  if (rows < 8) return 1;
  if (!gpu.info.software) return 4;
  return lanes > 0 && shared ? 2 : 1;
}

/**
 * Rows of a batch: all that a subgroup holds numbers for, or, on a GPU, which wants many workgroups, one block. Rows of a
 * workgroup: enough groups to fill a device, few enough that their sums over rows stay small.
 */
function rowsOf(gpu: Gpu, v: RowNormVariant, rows: number, groups: number): { batch: number; chunk: number } {
  const [batch, wanted] = gpu.info.software ? [batchOf(v), 32] : [v.block, groups];
  return { batch, chunk: Math.ceil(Math.ceil(rows / wanted) / batch) * batch };
}

function check(spec: RowNormSpec, x: Tensor, width: number): void {
  const { who, weight, bias, residual } = spec;
  if (width === 0)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; its last axis must not be empty`);
  for (const [name, t] of Object.entries({ x, weight, bias, residual }))
    if (t !== undefined) expectDType(who, name, t, "f32", "f16");
  for (const [name, t] of Object.entries({ weight, bias }))
    if (t !== undefined) expectShape(who, name, t, [width]);
  if (residual !== undefined) {
    expectDType(who, "residual", residual, x.dtype);
    expectShape(who, "residual", residual, x.shape);
  }
  expectNumber(who, "eps", spec.eps, 0);
}

/** out = gain (x - mean) / r (offset + weight) + bias over the last axis: one kernel forward, one backward. */
export function rowNorm(x: Tensor, spec: RowNormSpec): RowNormResult {
  const {
    who,
    center = false,
    divisor,
    eps,
    offset = 0,
    weight,
    bias,
    gain,
    residual,
    residualScale = 1,
  } = spec;
  expectTensor(who, "x", x);
  const width = x.shape.at(-1) ?? 0;
  check(spec, x, width);
  const { gpu } = x;
  const k = spec.k ?? width;
  const rows = x.size / width;
  const form = rowVariant(x, width);
  const variant: RowNormVariant = {
    ...form,
    block: spec.block ?? rowsAtOnce(form, gpu, rows, false),
    center,
    divisor,
    weight: weight?.dtype,
    bias: bias?.dtype,
    gain: gain !== undefined,
    partial: k < width,
    residual: residual !== undefined,
  };
  const params = { rows, width, k, eps, offset, residual_scale: residualScale };
  const outputs = applyOp({
    name: who,
    inputs: [x, weight, bias, residual, gain],
    forward: () => {
      const out = gpu.empty(x.shape, x.dtype);
      const stats = gpu.empty([rows, 2]);
      const total = residual ? gpu.empty(x.shape, x.dtype) : undefined;
      const share = rowsOf(gpu, variant, rows, 2048);
      gpu.run(forwardKernel, {
        variant,
        bindings: { x, out, stats, weight, bias, gain, residual, total },
        params: { ...params, ...share },
        workgroups: grid1d(Math.ceil(rows / Math.max(share.chunk, 1))),
      });
      return { outputs: total ? [out, total] : [out], saved: [stats] };
    },
    backward: ({ grads, outputs, saved, needs }) => {
      const [grad, more] = grads;
      if (!grad) {
        // Only the sum was used.
        return [
          more,
          undefined,
          undefined,
          more && needs[3] && residualScale !== 1 ? mul(more, residualScale) : more,
        ];
      }
      const own: RowNormBackwardVariant = {
        ...variant,
        block: spec.block ?? rowsAtOnce(form, gpu, rows, weight !== undefined),
        more: more !== undefined,
        dresidual: residual !== undefined && needs[3] === true && residualScale !== 1,
        dweight: weight !== undefined && needs[1] === true,
        dbias: bias !== undefined && needs[2] === true,
      };
      const share = rowsOf(gpu, own, rows, 1024);
      const groups = Math.ceil(rows / Math.max(share.chunk, 1));
      // Few enough groups for a grid of one axis, so each has rows, and writes its line of the sums.
      const workgroups = grid1d(groups);
      const kinds = Number(own.dweight) + Number(own.dbias);
      const dx = gpu.empty(x.shape, x.dtype);
      const dresidual = own.dresidual ? gpu.empty(x.shape, x.dtype) : undefined;
      const sums = kinds > 0 ? gpu.empty([kinds, groups, width]) : undefined;
      const dgain = gain ? gpu.empty([groups]) : undefined;
      gpu.run(backwardKernel, {
        variant: own,
        bindings: {
          x: residual ? outputs[1] : x,
          stats: saved[0],
          grad,
          dx,
          weight,
          gain,
          dgain,
          more,
          dresidual,
          sums,
        },
        params: { ...params, ...share },
        workgroups,
      });
      const folded = sums && sumMiddle(sums, kinds, groups, width);
      const line = (at: number, like: Tensor): Tensor =>
        cast(slice(folded!, { axis: 0, start: at, end: at + 1 }).reshape([width]), like.dtype);
      return [
        needs[0] ? dx : undefined,
        weight && own.dweight ? line(0, weight) : undefined,
        bias && own.dbias ? line(kinds - 1, bias) : undefined,
        needs[3] ? (dresidual ?? dx) : undefined,
        gain && dgain && needs[4] ? sumMiddle(dgain, 1, groups, 1).reshape(gain.shape) : undefined,
      ];
    },
  });
  return { out: outputs[0]!, residual: outputs[1] ?? x };
}
