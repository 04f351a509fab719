export interface BatchReference {
  readonly dim: number;
  readonly eps: number;
  readonly momentum: number;
  readonly training: boolean;
  readonly runningVariance?: "sample" | "population";
  readonly runningMean: ArrayLike<number>;
  readonly runningVar: ArrayLike<number>;
  /** 1 for each valid row. */
  readonly mask?: ArrayLike<number> | undefined;
}

/** Per feature over the valid rows; the running variance takes the sample's, or the population's. In float64. */
export function batchNormReference(
  { dim, eps, momentum, training, runningMean, runningVar, mask, runningVariance = "sample" }: BatchReference,
  x: ArrayLike<number>,
  weight?: ArrayLike<number>,
  bias?: ArrayLike<number>,
): { out: Float64Array; runningMean: Float64Array; runningVar: Float64Array } {
  const rows = Array.from({ length: x.length / dim }, (_, r) => r).filter((r) => !mask || mask[r] === 1);
  const N = rows.length;
  const spare = runningVariance === "sample" ? 1 : 0;
  const out = new Float64Array(x.length);
  const next = { runningMean: Float64Array.from(runningMean), runningVar: Float64Array.from(runningVar) };
  for (let c = 0; c < dim; c++) {
    let [mean, variance] = [runningMean[c]!, runningVar[c]!];
    if (training) {
      mean = 0;
      variance = 0;
      for (const r of rows) mean += x[r * dim + c]! / N;
      for (const r of rows) variance += (x[r * dim + c]! - mean) ** 2 / N;
      next.runningMean[c] = (1 - momentum) * runningMean[c]! + momentum * mean;
      next.runningVar[c] =
        (1 - momentum) * runningVar[c]! + (momentum * variance * N) / Math.max(N - spare, 1);
    }
    for (const r of rows)
      out[r * dim + c] =
        ((x[r * dim + c]! - mean) / Math.sqrt(variance + eps)) * (weight ? weight[c]! : 1) +
        (bias ? bias[c]! : 0);
  }
  return { out, ...next };
}
