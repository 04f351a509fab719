import {
  add,
  cast,
  checkConfig,
  div,
  elementwise,
  e,
  expectDType,
  expectNumber,
  expectShape,
  maximum,
  mul,
  ShapeError,
  showShape,
  stopGradient,
  square,
  sub,
  sum,
  type Tensor,
} from "@x/kernels";

export interface BatchNormOptions {
  /** Statistics of the batch, or the running ones. */
  readonly training: boolean;
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  readonly weight?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
  /** i32 [batch, seq]: 1 for valid tokens. Padded tokens give 0 and have no influence. */
  readonly mask?: Tensor | undefined;
  /** Default 1e-5. */
  readonly eps?: number;
  /** Weight of the new value in the running statistics; default 0.1. */
  readonly momentum?: number;
}

export interface BatchNormResult {
  readonly out: Tensor;
  /** The next running statistics; in evaluation, those that were given. */
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
}

const affine = elementwise("batchNorm", ["x", "mean", "variance", "eps"], (x, mean, variance, eps) =>
  e.mul(e.sub(x, mean), e.rsqrt(e.add(variance, eps))),
);

/**
 * Batch normalisation over all valid tokens: out = (x - mean) / sqrt(var + eps) * weight + bias per feature. The
 * running variance takes the sample variance, var N / max(N - 1, 1).
 *
 * x [batch, seq, dim] f32; weight, bias and running statistics [dim]. Ioffe and Szegedy 2015, arXiv:1502.03167,
 * algorithms 1 and 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function batchNorm(x: Tensor, options: BatchNormOptions): BatchNormResult {
  const who = "batchNorm";
  checkConfig(who, options, [
    "training",
    "runningMean",
    "runningVar",
    "weight",
    "bias",
    "mask",
    "eps",
    "momentum",
  ]);
  const { training, runningMean, runningVar, weight, bias, mask, eps = 1e-5, momentum = 0.1 } = options;
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
  expectNumber(who, "eps", eps, 0);
  expectNumber(who, "momentum", momentum, 0, 1);
  return x.gpu.scope(() => {
    const valid = mask ? cast(mask, "f32").reshape([rows, 1]) : undefined;
    const keep = (t: Tensor): Tensor => (valid ? mul(t, valid) : t);
    const flat = x.reshape([rows, dim]);
    let mean = runningMean;
    let variance = runningVar;
    let next = { runningMean, runningVar };
    if (training) {
      const count = valid ? maximum(sum(valid), 1) : x.gpu.full([], Math.max(rows, 1));
      mean = div(sum(keep(flat), { axes: 0 }), count);
      variance = div(sum(keep(square(sub(flat, mean))), { axes: 0 }), count);
      const sample = mul(variance, div(count, maximum(sub(count, 1), 1)));
      const blend = (old: Tensor, now: Tensor): Tensor =>
        stopGradient(add(mul(old, 1 - momentum), mul(now, momentum)));
      next = { runningMean: blend(runningMean, mean), runningVar: blend(runningVar, sample) };
    }
    let out = affine(flat, mean, variance, eps);
    if (weight) out = mul(out, weight);
    if (bias) out = add(out, bias);
    return { out: keep(out).reshape(x.shape), ...next };
  });
}
