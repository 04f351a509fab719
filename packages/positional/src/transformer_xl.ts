import {
  add,
  checkConfig,
  ConfigError,
  expectInteger,
  linear,
  matmul,
  RelativeIndex,
  ShapeError,
  showShape,
  transpose,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { sinusoidalTable } from "./sinusoidal.js";

export interface TransformerXlConfig {
  /** Length of the sinusoid, even. */
  readonly modelDim: number;
  /** Default 10000. */
  readonly base?: number;
  /** Distances above are taken as this one. */
  readonly clampLength?: number | undefined;
  /** Factor of attention's scores. */
  readonly scale: number;
  /** Smallest and largest query position - key position that is seen. */
  readonly minDistance: number;
  readonly maxDistance: number;
}

export interface TransformerXlWeights {
  /** W_r [heads * headDim, modelDim] */
  readonly relProj: Tensor;
  /** u [heads, headDim] */
  readonly contentBias: Tensor;
  /** v [heads, headDim] */
  readonly positionBias: Tensor;
}

/**
 * Transformer-XL's scores: scale [(q_i + u) . k_j + (q_i + v) . (W_r R_d)], R_d the sinusoid of the distance. Gives the
 * query to use, q + u, and the position term as a modifier.
 *
 * q [batch, heads, queries, headDim]. Dai et al. 2019, arXiv:1901.02860, section 3.3.
 *
 * @throws ConfigError, ShapeError
 */
export function transformerXl(
  q: Tensor,
  weights: TransformerXlWeights,
  config: TransformerXlConfig,
): { query: Tensor; modifier: RelativeModifier } {
  const who = "transformerXl";
  checkConfig(who, config, ["modelDim", "base", "clampLength", "scale", "minDistance", "maxDistance"]);
  const { modelDim, base = 10000, clampLength = Infinity, scale, minDistance, maxDistance } = config;
  expectInteger(who, "modelDim", modelDim, 2);
  if (modelDim % 2 !== 0) throw new ConfigError(who, `modelDim is ${modelDim}; it must be even`);
  if (q.rank !== 4)
    throw new ShapeError(
      who,
      `q has shape ${showShape(q.shape)}; it must be [batch, heads, queries, headDim]`,
    );
  const [, heads, , headDim] = q.shape as [number, number, number, number];
  const { relProj, contentBias, positionBias } = weights;
  const last = Math.min(maxDistance, clampLength);
  const rows = Math.max(1, last - minDistance + 1);
  const row = (distance: number): number =>
    Math.min(Math.max(Math.min(distance, clampLength), minDistance), minDistance + rows - 1) - minDistance;
  return q.gpu.scope(() => {
    const distances = Float64Array.from({ length: rows }, (_, n) => minDistance + n);
    const table = q.gpu.tensor(sinusoidalTable(distances, { dim: modelDim, base, layout: "concat" }), [
      rows,
      modelDim,
    ]);
    // W_r R_d for each head: [heads, rows, headDim].
    const keys = transpose(linear(table, relProj).reshape([rows, heads, headDim]), [1, 0, 2]);
    const shift = (bias: Tensor): Tensor => add(q, bias.reshape([heads, 1, headDim]));
    const tensor = matmul(shift(positionBias), keys, { transposeB: true, alpha: scale });
    return {
      query: shift(contentBias),
      modifier: {
        kind: "relative",
        name: "transformerXl",
        axes: "bhq",
        tensor,
        index: new RelativeIndex(rows, row),
      },
    };
  });
}
