import {
  add,
  checkConfig,
  ConfigError,
  expectInteger,
  expectNumber,
  expectObject,
  expectShape,
  linear,
  matmul,
  mul,
  randomNormal,
  RelativeIndex,
  ShapeError,
  showShape,
  takeParameter,
  transpose,
  type Gpu,
  type Module,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { sinusoidalTable } from "../absolute/sinusoidal.js";

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
  expectNumber(who, "scale", scale);
  expectNumber(who, "base", base, Number.MIN_VALUE);
  expectInteger(who, "minDistance", minDistance, -Infinity);
  expectInteger(who, "maxDistance", maxDistance, minDistance);
  if (clampLength !== Infinity) expectInteger(who, "clampLength", clampLength, 0);
  if (q.rank !== 4)
    throw new ShapeError(
      who,
      `q has shape ${showShape(q.shape)}; it must be [batch, heads, queries, headDim]`,
    );
  const [, heads, , headDim] = q.shape as [number, number, number, number];
  const { relProj, contentBias, positionBias } = weights;
  expectShape(who, "relProj", relProj, [heads * headDim, modelDim]);
  expectShape(who, "contentBias", contentBias, [heads, headDim]);
  expectShape(who, "positionBias", positionBias, [heads, headDim]);
  // Rows for the distances first..last; what lies outside is never seen.
  const [first, last] = [Math.min(minDistance, clampLength), Math.min(maxDistance, clampLength)];
  const rows = last - first + 1;
  const row = (distance: number): number => Math.min(Math.max(distance, first), last) - first;
  const index = new RelativeIndex(rows, row);
  // The index keeps a table on the device, which goes with the caller's scope.
  q.gpu.currentScope?.endings.push(() => {
    index.dispose();
  });
  return q.gpu.scope(() => {
    const distances = Float64Array.from({ length: rows }, (_, n) => first + n);
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
        index,
      },
    };
  });
}

export interface TransformerXlSettings {
  readonly numHeads: number;
  readonly headDim: number;
  /** Length of the sinusoid, even. */
  readonly modelDim: number;
  readonly base?: number;
  readonly clampLength?: number | undefined;
}

const SETTINGS = ["numHeads", "headDim", "modelDim", "base", "clampLength"];

/** `transformerXl` with its parameters, named as in the published checkpoints: r_net.weight, r_w_bias, r_r_bias. */
export class TransformerXl implements Module {
  readonly weights: TransformerXlWeights;
  readonly settings: TransformerXlSettings;

  constructor(settings: TransformerXlSettings, weights: TransformerXlWeights) {
    checkConfig("TransformerXl", settings, SETTINGS);
    this.settings = settings;
    this.weights = weights;
  }

  /** Normal numbers of deviation `std` (0.02); biases of zeros. */
  static init(
    gpu: Gpu,
    config: TransformerXlSettings & { readonly std?: number; readonly seed?: number },
  ): TransformerXl {
    const who = "TransformerXl";
    expectObject(who, "config", config);
    const { std = 0.02, seed = 0, ...settings } = config;
    checkConfig(who, settings, SETTINGS);
    const { numHeads, headDim, modelDim } = settings;
    for (const [name, n] of Object.entries({ numHeads, headDim, modelDim })) expectInteger(who, name, n, 1);
    const projection = gpu.scope(() => mul(randomNormal(gpu, [numHeads * headDim, modelDim], { seed }), std));
    return new TransformerXl(settings, {
      relProj: gpu.keep(projection),
      contentBias: gpu.keep(gpu.zeros([numHeads, headDim])),
      positionBias: gpu.keep(gpu.zeros([numHeads, headDim])),
    });
  }

  static fromParameters(
    settings: TransformerXlSettings,
    parameters: Readonly<Record<string, Tensor>>,
  ): TransformerXl {
    const take = (name: string): Tensor => takeParameter("TransformerXl", parameters, name);
    return new TransformerXl(settings, {
      relProj: take("r_net.weight"),
      contentBias: take("r_w_bias"),
      positionBias: take("r_r_bias"),
    });
  }

  /** The query to use and the position term, for distances minDistance..maxDistance. */
  prepare(
    q: Tensor,
    range: { readonly scale: number; readonly minDistance: number; readonly maxDistance: number },
  ): { query: Tensor; modifier: RelativeModifier } {
    const { modelDim, base, clampLength } = this.settings;
    return transformerXl(q, this.weights, {
      modelDim,
      ...(base === undefined ? {} : { base }),
      clampLength,
      ...range,
    });
  }

  parameters(): Record<string, Tensor> {
    const { relProj, contentBias, positionBias } = this.weights;
    return { "r_net.weight": relProj, r_w_bias: contentBias, r_r_bias: positionBias };
  }
}
