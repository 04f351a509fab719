import {
  applyOp,
  boolean,
  Component,
  defineKernel,
  expectDType,
  expectShape,
  expectTensor,
  grid1d,
  integer,
  number,
  oneOf,
  ones,
  schema,
  ShapeError,
  showShape,
  slice,
  stridedCopy,
  sumMiddle,
  tensor,
  zeros,
  type BindingSpec,
  type Config,
  type Kernel,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import {
  apply,
  backward,
  batchNormParams,
  merge,
  statistics,
  sums,
  type BatchNormVariant,
} from "./batchnorm.wgsl.js";
import { affinePlan } from "../affine.js";

interface Source {
  readonly bindings: (v: BatchNormVariant) => Record<string, BindingSpec>;
  readonly wgsl: (v: BatchNormVariant) => string;
}
const kernel = (name: string, source: Source): Kernel<BatchNormVariant> =>
  defineKernel({ name, params: batchNormParams, ...source });
const statisticsKernel: Kernel<BatchNormVariant> = kernel("batchNormStatistics", statistics);
const mergeKernel: Kernel<BatchNormVariant> = kernel("batchNormMerge", merge);
const applyKernel: Kernel<BatchNormVariant> = kernel("batchNorm", apply);
const sumsKernel: Kernel<BatchNormVariant> = kernel("batchNormBackwardSums", sums);
const backwardKernel: Kernel<BatchNormVariant> = kernel("batchNormBackward", backward);

/** Rows cut into chunks of one size, about `wanted` of them. */
function chunksOf(rows: number, wanted: number): { chunk: number; chunks: number } {
  const chunk = Math.max(1, Math.ceil(rows / Math.max(wanted, 1)));
  return { chunk, chunks: Math.max(1, Math.ceil(rows / chunk)) };
}

const FIELDS = {
  eps: number("Added to the variance.", { min: 0, default: 1e-5 }),
  momentum: number("Share of the new value in the running statistics.", { min: 0, max: 1, default: 0.1 }),
  runningVariance: oneOf(
    'What the running variance takes of a batch of N tokens: "sample", the sum of squares over N - 1, as PyTorch ' +
      'does, or "population", over N, as ONNX and TensorFlow do.',
    ["sample", "population"],
    { default: "sample" },
  ),
};
const OPTIONS = schema("batchNorm", {
  training: boolean("Statistics of the batch, or the running ones."),
  runningMean: tensor("Running mean, f32 [dim]."),
  runningVar: tensor("Running variance, f32 [dim]."),
  weight: tensor("Factor, f32 [dim].", { optional: true }),
  bias: tensor("Shift, f32 [dim].", { optional: true }),
  mask: tensor("i32 [batch, seq]: 1 for valid tokens. Padded tokens give 0 and have no influence.", {
    optional: true,
  }),
  ...FIELDS,
});
const CALL = schema("BatchNorm.forward", {
  training: boolean("Statistics of the batch, which move the running ones, or the running ones."),
  mask: OPTIONS.fields.mask,
});
const BATCH_NORM = schema("BatchNorm", { dim: integer("Number of features.", { min: 1 }), ...FIELDS });
export type BatchNormOptions = Config<typeof OPTIONS>;
export type BatchNormConfig = Config<typeof BATCH_NORM>;
export type BatchNormForwardOptions = Config<typeof CALL>;

export interface BatchNormResult {
  readonly out: Tensor;
  /** The next running statistics; in evaluation, those that were given. */
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
}

/**
 * Batch normalisation over all N valid tokens: out = (x - mean) / sqrt(var + eps) * weight + bias per feature, var being
 * the population's. A running statistic moves to (1 - momentum) running + momentum new, where the new variance is
 * var N / max(N - 1, 1), or with `runningVariance: "population"` var itself.
 *
 * x [batch, seq, dim] f32; weight, bias and running statistics [dim]. Ioffe and Szegedy 2015, arXiv:1502.03167,
 * algorithms 1 and 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function batchNorm(x: Tensor, options: BatchNormOptions): BatchNormResult {
  const who = OPTIONS.name;
  const { training, runningMean, runningVar, weight, bias, mask, eps, momentum, runningVariance } =
    OPTIONS.read(options);
  expectDType(who, "x", x, "f32");
  if (x.rank < 2) throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [.., dim]`);
  const dim = x.shape.at(-1)!;
  const rows = x.size / Math.max(dim, 1);
  for (const [name, t] of Object.entries({ runningMean, runningVar, weight, bias }))
    if (t) expectShape(who, name, t, [dim]);
  if (mask) {
    expectShape(who, "mask", mask, x.shape.slice(0, -1));
    expectDType(who, "mask", mask, "i32");
  }
  for (const [name, t] of Object.entries({ runningMean, runningVar, weight, bias }))
    if (t) expectDType(who, name, t, "f32");
  const { gpu } = x;
  const vec = dim % 4 === 0;
  const pieces = vec ? dim / 4 : dim;
  // Enough invocations to fill a device, few enough chunks that merging them is little. Rows lie a page apart: on a
  // CPU a chunk of more of them than 32 misses the cache of page addresses.
  const wanted = gpu.info.software ? Math.ceil(rows / 32) : Math.ceil(16384 / Math.max(pieces, 1));
  const merged = chunksOf(rows, Math.min(Math.ceil(rows / 16), wanted));
  const alone = chunksOf(rows, Math.ceil(rows / 16));
  const variant: BatchNormVariant = {
    vec,
    mask: mask !== undefined,
    weight: weight !== undefined,
    bias: bias !== undefined,
    training,
  };
  const run = (
    kernel: Kernel<BatchNormVariant>,
    size: { rows: number; chunk: number; chunks: number },
    bindings: Record<string, Tensor | undefined>,
  ): void => {
    gpu.run(kernel, {
      variant,
      bindings,
      params: { ...size, width: dim, eps, momentum, spare: runningVariance === "sample" ? 1 : 0 },
      workgroups: grid1d(Math.ceil((pieces * size.chunks) / 64)),
    });
  };
  const { chunks } = merged;
  const [out, nextMean, nextVar] = applyOp({
    name: who,
    inputs: [x, weight, bias, mask, runningMean, runningVar],
    forward: () => {
      const stats = gpu.empty([3, dim]);
      const parts = (): Tensor => gpu.empty([chunks, dim]);
      const [means, squares, counts] = training ? [parts(), parts(), gpu.empty([chunks])] : [];
      const next = training ? [gpu.empty([dim]), gpu.empty([dim])] : [];
      if (training) run(statisticsKernel, { rows, ...merged }, { x, mask, means, squares, counts });
      run(
        mergeKernel,
        // One invocation a piece, over all chunks.
        { rows: chunks, chunk: chunks, chunks: 1 },
        {
          means,
          squares,
          counts,
          running_mean: runningMean,
          running_var: runningVar,
          stats,
          next_mean: next[0],
          next_var: next[1],
        },
      );
      const out = gpu.empty(x.shape);
      run(applyKernel, { rows, ...alone }, { x, mask, stats, weight, bias, out });
      return { outputs: [out, ...next], saved: [stats] };
    },
    // The running statistics are constants of the gradient, before and after.
    backward: ({ grads, saved, needs }) => {
      const grad = grads[0];
      if (!grad) return [];
      const stats = saved[0]!;
      let totals: Tensor | undefined;
      if (training || needs[1] || needs[2]) {
        const partial = gpu.empty([2, chunks, dim]);
        run(sumsKernel, { rows, ...merged }, { x, grad, mask, stats, partial });
        totals = sumMiddle(partial, 2, chunks, dim);
      }
      const line = (at: number): Tensor => slice(totals!, { axis: 0, start: at, end: at + 1 }).reshape([dim]);
      let dx: Tensor | undefined;
      if (needs[0]) {
        dx = gpu.empty(x.shape);
        run(backwardKernel, { rows, ...alone }, { x, totals, grad, mask, stats, weight, dx });
      }
      return [dx, weight && needs[1] ? line(0) : undefined, bias && needs[2] ? line(1) : undefined];
    },
  });
  return { out: out!, runningMean: nextMean ?? runningMean, runningVar: nextVar ?? runningVar };
}

/**
 * `batchNorm` with its weight (ones), bias (zeros) and running statistics: the buffers `running_mean` (zeros) and
 * `running_var` (ones), which `forward` in training moves on in place.
 */
export class BatchNorm extends Component<typeof BATCH_NORM> {
  static readonly schema = BATCH_NORM;

  /** Names, shapes and initial values of the parameters and buffers. @throws ConfigError */
  static plan(config: BatchNormConfig): ParameterPlan {
    const { dim } = BATCH_NORM.read(config);
    return {
      ...affinePlan(dim, true),
      running_mean: { ...zeros(dim), buffer: true },
      running_var: { ...ones(dim), buffer: true },
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: BatchNormConfig, parameters: Parameters) {
    super(BATCH_NORM, config, BatchNorm.plan(config), parameters);
  }

  /** x f32 [batch, seq, dim]; in training the running statistics move on. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor, options: BatchNormForwardOptions): Tensor {
    expectTensor(CALL.name, "x", x);
    const { training, mask } = CALL.read(options);
    const { eps, momentum, runningVariance } = this.config;
    const { weight, bias, running_mean, running_var } = this.weights;
    const [runningMean, runningVar] = [running_mean!, running_var!];
    const settings = { eps, momentum, runningVariance };
    return x.gpu.scope(() => {
      const next = batchNorm(x, { training, runningMean, runningVar, weight, bias, mask, ...settings });
      if (training) {
        const write = (from: Tensor, to: Tensor): void => {
          stridedCopy("BatchNorm", from.shape, { tensor: from, strides: [1] }, { tensor: to, strides: [1] });
        };
        write(next.runningMean, runningMean);
        write(next.runningVar, runningVar);
      }
      return next.out;
    });
  }
}
