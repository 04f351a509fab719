import {
  add,
  boolean,
  Component,
  ConfigError,
  expectDType,
  expectInteger,
  expectShape,
  integer,
  matmul,
  matrix,
  number,
  RelativeIndex,
  schema,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { relativeIndex } from "./relative_index.js";

const KEYS = schema("shawKeys", {
  relKey: tensor("A row for each clipped distance, [2 maxDistance + 1, headDim]."),
  index: relativeIndex("Row of each distance, from `shawIndex`."),
  scale: number("Factor of attention's scores."),
});
const VALUES = schema("shawValues", {
  weightSums: tensor("Attention's weights summed by row, [batch, heads, queries, 2 maxDistance + 1]."),
  relValue: tensor("A row for each clipped distance, [2 maxDistance + 1, headDim]."),
});
const SHAW = schema("ShawRelative", {
  headDim: integer("Width of a head.", { min: 1 }),
  maxDistance: integer("Distances beyond share a row.", { min: 0 }),
  useKey: boolean("A term on the scores.", { default: true }),
  useValue: boolean("A term on the output.", { default: true }),
});
export type ShawKeysOptions = Config<typeof KEYS>;
export type ShawValuesOptions = Config<typeof VALUES>;
export type ShawRelativeConfig = Config<typeof SHAW>;

/** Row of each distance: clip(key - query, -m, m) + m. @throws ConfigError */
export function shawIndex(maxDistance: number): RelativeIndex {
  expectInteger("shawIndex", "maxDistance", maxDistance, 0);
  return new RelativeIndex(
    2 * maxDistance + 1,
    (distance) => Math.min(maxDistance, Math.max(-maxDistance, -distance)) + maxDistance,
  );
}

/**
 * Shaw's relative keys: score' = score + scale q_i . relKey[r(i, j)], from q relKey^T [batch, heads, queries, 2 m + 1]
 * instead of a vector for each pair.
 *
 * q [batch, heads, queries, headDim], relKey [2 m + 1, headDim]; f32 or f16. Shaw et al. 2018, arXiv:1803.02155,
 * equation 4.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function shawKeys(q: Tensor, options: ShawKeysOptions): RelativeModifier {
  const who = KEYS.name;
  expectDType(who, "q", q, "f32", "f16");
  const { relKey, index, scale } = KEYS.read(options);
  expectDType(who, "relKey", relKey, "f32", "f16");
  expectShape(who, "q", q, [null, null, null, null]);
  expectShape(who, "relKey", relKey, [index.rows, q.shape[3]!]);
  return {
    kind: "relative",
    name: who,
    axes: "bhq",
    tensor: matmul(q, relKey, { transposeB: true, alpha: scale }),
    index,
  };
}

/**
 * Shaw's relative values: out_i + sum_j w_ij relValue[r(i, j)], from the weights summed by distance
 * (`attentionOutputs` with `weightSums: index`).
 *
 * out [batch, heads, queries, headDim]; f32 or f16. Equation 3 of arXiv:1803.02155.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function shawValues(out: Tensor, options: ShawValuesOptions): Tensor {
  const who = VALUES.name;
  expectDType(who, "out", out, "f32", "f16");
  const { weightSums, relValue } = VALUES.read(options);
  expectDType(who, "weightSums", weightSums, "f32", "f16");
  expectDType(who, "relValue", relValue, "f32", "f16");
  expectShape(who, "out", out, [null, null, null, null]);
  expectShape(who, "relValue", relValue, [null, out.shape[3]!]);
  expectShape(who, "weightSums", weightSums, [...out.shape.slice(0, 3), relValue.shape[0]!]);
  return out.gpu.scope(() => add(out, matmul(weightSums, relValue)));
}

/**
 * Shaw's tables, shared by the heads: `relKey` and `relValue`, each [2 maxDistance + 1, headDim], initially normal of
 * deviation 0.02.
 */
export class ShawRelative extends Component<typeof SHAW> {
  static readonly schema = SHAW;
  /** Row of each distance; the component frees its table on the device. */
  readonly index: RelativeIndex;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: ShawRelativeConfig): ParameterPlan {
    const { headDim, maxDistance, useKey, useValue } = SHAW.read(config);
    if (!useKey && !useValue)
      throw new ConfigError(SHAW.name, "useKey and useValue are false; one of them must be true");
    const table = matrix(2 * maxDistance + 1, headDim);
    return { ...(useKey ? { relKey: table } : {}), ...(useValue ? { relValue: table } : {}) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: ShawRelativeConfig, parameters: Parameters) {
    super(SHAW, config, ShawRelative.plan(config), parameters);
    this.index = this.own(shawIndex(this.config.maxDistance));
  }

  /**
   * The terms that attention adds to its scores, none without `useKey`. q [batch, heads, queries, headDim]; `scale` is
   * attention's.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  modifiers(q: Tensor, scale: number): RelativeModifier[] {
    const { relKey } = this.weights;
    return relKey ? [shawKeys(q, { relKey, index: this.index, scale })] : [];
  }

  /** What attention must sum its weights by (`weightSums`), if values have a term. */
  get weightSums(): RelativeIndex | undefined {
    return this.config.useValue ? this.index : undefined;
  }

  /**
   * Attention's output [batch, heads, queries, headDim] with the values' term, from the weights summed by
   * `this.weightSums`; the output itself without `useValue`.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  output(out: Tensor, weightSums: Tensor | undefined): Tensor {
    const { relValue } = this.weights;
    if (!relValue) return out;
    if (weightSums === undefined)
      throw new ConfigError(SHAW.name, "weightSums is missing; run attentionOutputs with this.weightSums");
    return shawValues(out, { weightSums, relValue });
  }
}
