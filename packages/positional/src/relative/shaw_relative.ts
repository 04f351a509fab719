import {
  add,
  expectInteger,
  checkConfig,
  ConfigError,
  expectNumber,
  matmul,
  mul,
  randomNormal,
  RelativeIndex,
  ShapeError,
  showShape,
  takeParameter,
  type Gpu,
  type Module,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";

/** Row of each distance: clip(key - query, -m, m) + m. */
export function shawIndex(maxDistance: number): RelativeIndex {
  expectInteger("shawIndex", "maxDistance", maxDistance, 0);
  return new RelativeIndex(
    2 * maxDistance + 1,
    (distance) => Math.min(maxDistance, Math.max(-maxDistance, -distance)) + maxDistance,
  );
}

function expectTable(who: string, table: Tensor, index: RelativeIndex): void {
  if (table.rank !== 2 || table.shape[0] !== index.rows)
    throw new ShapeError(
      who,
      `table has shape ${showShape(table.shape)}; it must be [${index.rows}, headDim]`,
    );
}

/**
 * Shaw's relative keys: score' = score + scale q_i . relKey[r(i, j)], from q relKey^T [batch, heads, queries, 2 m + 1]
 * instead of a vector for each pair.
 *
 * q [batch, heads, queries, headDim], relKey [2 m + 1, headDim]; `scale` is that of attention. Shaw et al. 2018,
 * arXiv:1803.02155, equation 4.
 */
export function shawKeys(q: Tensor, relKey: Tensor, index: RelativeIndex, scale: number): RelativeModifier {
  expectTable("shawKeys", relKey, index);
  return {
    kind: "relative",
    name: "shawKeys",
    axes: "bhq",
    tensor: matmul(q, relKey, { transposeB: true, alpha: scale }),
    index,
  };
}

/**
 * Shaw's relative values: out_i + sum_j w_ij relValue[r(i, j)], from the weights summed by distance
 * (`attentionOutputs` with `weightSums: index`).
 *
 * Equation 3 of arXiv:1803.02155.
 */
export function shawValues(out: Tensor, weightSums: Tensor, relValue: Tensor): Tensor {
  return out.gpu.scope(() => add(out, matmul(weightSums, relValue)));
}

export interface ShawConfig {
  readonly headDim: number;
  /** Distances beyond share a row. */
  readonly maxDistance: number;
  /** Which sides there are; default both. */
  readonly useKey?: boolean;
  readonly useValue?: boolean;
}

/** Shaw's tables, shared by the heads: `relKey` and `relValue`, each [2 maxDistance + 1, headDim]. */
export class ShawRelative implements Module {
  readonly relKey: Tensor | undefined;
  readonly relValue: Tensor | undefined;
  readonly index: RelativeIndex;

  constructor(relKey: Tensor | undefined, relValue: Tensor | undefined, maxDistance: number) {
    this.index = shawIndex(maxDistance);
    for (const table of [relKey, relValue]) if (table) expectTable("ShawRelative", table, this.index);
    if (!relKey && !relValue)
      throw new ConfigError("ShawRelative", "has neither relKey nor relValue; one must be there");
    this.relKey = relKey;
    this.relValue = relValue;
  }

  /** Normal numbers of deviation `std` (0.02). */
  static init(
    gpu: Gpu,
    config: ShawConfig & { readonly std?: number; readonly seed?: number },
  ): ShawRelative {
    const who = "ShawRelative";
    checkConfig(who, config, ["headDim", "maxDistance", "useKey", "useValue", "std", "seed"]);
    const { headDim, maxDistance, useKey = true, useValue = true, std = 0.02, seed = 0 } = config;
    expectInteger(who, "headDim", headDim, 1);
    expectInteger(who, "maxDistance", maxDistance, 0);
    expectNumber(who, "std", std, 0);
    const table = (n: number): Tensor =>
      gpu.keep(
        gpu.scope(() => mul(randomNormal(gpu, [2 * maxDistance + 1, headDim], { seed: seed + n }), std)),
      );
    return new ShawRelative(useKey ? table(0) : undefined, useValue ? table(1) : undefined, maxDistance);
  }

  static fromParameters(config: ShawConfig, parameters: Readonly<Record<string, Tensor>>): ShawRelative {
    const { useKey = true, useValue = true } = config;
    const take = (name: string): Tensor => takeParameter("ShawRelative", parameters, name);
    return new ShawRelative(
      useKey ? take("relKey") : undefined,
      useValue ? take("relValue") : undefined,
      config.maxDistance,
    );
  }

  /** The terms that attention adds to its scores; `scale` is attention's. */
  modifiers(q: Tensor, scale: number): RelativeModifier[] {
    return this.relKey ? [shawKeys(q, this.relKey, this.index, scale)] : [];
  }

  /** What attention must sum its weights by (`weightSums`), if values have a term. */
  get weightSums(): RelativeIndex | undefined {
    return this.relValue ? this.index : undefined;
  }

  /** Attention's output with the values' term. */
  output(out: Tensor, weightSums: Tensor | undefined): Tensor {
    if (!this.relValue) return out;
    if (!weightSums)
      throw new ConfigError(
        "ShawRelative",
        "weightSums is missing; run attentionOutputs with this.weightSums",
      );
    return shawValues(out, weightSums, this.relValue);
  }

  parameters(): Record<string, Tensor> {
    return {
      ...(this.relKey ? { relKey: this.relKey } : {}),
      ...(this.relValue ? { relValue: this.relValue } : {}),
    };
  }

  /** Free the table of distances; the parameters belong to the caller. */
  dispose(): void {
    this.index.dispose();
  }
}
