import {
  add,
  Component,
  ConfigError,
  expectDType,
  expectInteger,
  expectShape,
  integer,
  linear,
  matmul,
  matrix,
  number,
  RelativeIndex,
  schema,
  ShapeError,
  showShape,
  tensor,
  transpose,
  type Config,
  type ParameterPlan,
  type Parameters,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { sinusoidalTable } from "../absolute/sinusoidal.js";

const SINUSOID = {
  modelDim: integer("Length of the sinusoid, even.", { min: 2 }),
  base: number("Base of its frequencies.", { min: Number.MIN_VALUE, default: 10000 }),
  clampLength: integer("Distances above are taken as this one.", { min: 0, defaultDoc: "no bound" }),
};
const RANGE = {
  scale: number("Factor of attention's scores."),
  minDistance: integer("Smallest query position - key position that is seen."),
  maxDistance: integer("Largest query position - key position that is seen."),
};
const OPTIONS = schema("transformerXlRelative", {
  ...SINUSOID,
  ...RANGE,
  relProj: tensor("W_r, [heads headDim, modelDim]."),
  contentBias: tensor("u, [heads, headDim]."),
  positionBias: tensor("v, [heads, headDim]."),
});
const PREPARE = schema("TransformerXlRelative.prepare", RANGE);
const TRANSFORMER_XL = schema("TransformerXlRelative", {
  numHeads: integer("Heads of the queries.", { min: 1 }),
  headDim: integer("Width of a head.", { min: 1 }),
  ...SINUSOID,
});
export type TransformerXlRelativeOptions = Config<typeof OPTIONS>;
export type TransformerXlRange = Config<typeof PREPARE>;
export type TransformerXlRelativeConfig = Config<typeof TRANSFORMER_XL>;

/** @throws ConfigError */
function expectEven(who: string, modelDim: number): void {
  if (modelDim % 2 !== 0) throw new ConfigError(who, `modelDim is ${modelDim}; it must be even`);
}

/**
 * Transformer-XL's scores: scale [(q_i + u) . k_j + (q_i + v) . (W_r R_d)], R_d the sinusoid of the distance. Gives the
 * query to use, q + u, and the position term as a modifier.
 *
 * q [batch, heads, queries, headDim], f32 or f16. Dai et al. 2019, arXiv:1901.02860, section 3.3.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function transformerXlRelative(
  q: Tensor,
  options: TransformerXlRelativeOptions,
): { query: Tensor; modifier: RelativeModifier } {
  const who = OPTIONS.name;
  expectDType(who, "q", q, "f32", "f16");
  const { modelDim, base, clampLength = Infinity, scale, ...given } = OPTIONS.read(options);
  const { minDistance, maxDistance, relProj, contentBias, positionBias } = given;
  expectEven(who, modelDim);
  expectInteger(who, "maxDistance", maxDistance, minDistance);
  if (q.rank !== 4)
    throw new ShapeError(
      who,
      `q has shape ${showShape(q.shape)}; it must be [batch, heads, queries, headDim]`,
    );
  const [, heads, , headDim] = q.shape as [number, number, number, number];
  for (const [name, weight, shape] of [
    ["relProj", relProj, [heads * headDim, modelDim]],
    ["contentBias", contentBias, [heads, headDim]],
    ["positionBias", positionBias, [heads, headDim]],
  ] as const) {
    expectDType(who, name, weight, "f32", "f16");
    expectShape(who, name, weight, shape);
  }
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
        name: who,
        axes: "bhq",
        tensor,
        index,
      },
    };
  });
}

/**
 * `transformerXlRelative` with its parameters, named as in the published checkpoints: `r_net.weight` [numHeads headDim,
 * modelDim], initially normal of deviation 0.02, `r_w_bias` (u) and `r_r_bias` (v) [numHeads, headDim], initially zeros.
 */
export class TransformerXlRelative extends Component<typeof TRANSFORMER_XL> {
  static readonly schema = TRANSFORMER_XL;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: TransformerXlRelativeConfig): ParameterPlan {
    const { numHeads, headDim, modelDim } = TRANSFORMER_XL.read(config);
    expectEven(TRANSFORMER_XL.name, modelDim);
    const bias = { shape: [numHeads, headDim], init: 0 };
    return { "r_net.weight": matrix(numHeads * headDim, modelDim), r_w_bias: bias, r_r_bias: bias };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: TransformerXlRelativeConfig, parameters: Parameters) {
    super(TRANSFORMER_XL, config, TransformerXlRelative.plan(config), parameters);
  }

  /**
   * The query to use and the position term, for distances minDistance..maxDistance.
   * q [batch, numHeads, queries, headDim], f32 or f16.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  prepare(q: Tensor, range: TransformerXlRange): { query: Tensor; modifier: RelativeModifier } {
    const { modelDim, base, clampLength } = this.config;
    return transformerXlRelative(q, {
      modelDim,
      base,
      clampLength,
      ...PREPARE.read(range),
      relProj: this.weights["r_net.weight"]!,
      contentBias: this.weights["r_w_bias"]!,
      positionBias: this.weights["r_r_bias"]!,
    });
  }
}
