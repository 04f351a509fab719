import {
  checkConfig,
  ConfigError,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectObject,
  mul,
  randomNormal,
  RelativeIndex,
  takeParameter,
  transpose,
  type Gpu,
  type Module,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";

export interface T5BiasConfig {
  /** Default 32. */
  readonly numBuckets?: number;
  /** Distances from here on share the last bucket; default 128. */
  readonly maxDistance?: number;
  /** Keys after the query have buckets of their own. */
  readonly bidirectional: boolean;
}

/** Greatest t with (n / e)^m >= (max / e)^t, exact in integers: n^m e^t >= max^t e^m. */
function logBucket(n: number, e: number, max: number, m: number): number {
  let t = 0;
  const [N, E, M] = [BigInt(n), BigInt(e), BigInt(max)];
  const left = N ** BigInt(m);
  const unit = E ** BigInt(m);
  while (t < m && left * E ** BigInt(t + 1) >= M ** BigInt(t + 1) * unit) t++;
  return t;
}

/** Bucket of key position - query position: exact up to half of the buckets, then logarithmic. */
export function t5Buckets(config: T5BiasConfig): (relative: number) => number {
  const who = "t5Bias";
  checkConfig(who, config, ["numBuckets", "maxDistance", "bidirectional"]);
  const { numBuckets = 32, maxDistance = 128, bidirectional } = config;
  expectBoolean(who, "bidirectional", bidirectional);
  expectInteger(who, "numBuckets", numBuckets, bidirectional ? 4 : 2);
  const count = bidirectional ? Math.floor(numBuckets / 2) : numBuckets;
  const exact = Math.floor(count / 2);
  expectInteger(who, "maxDistance", maxDistance, exact + 1);
  const cache = new Map<number, number>();
  return (relative) => {
    const start = bidirectional && relative > 0 ? count : 0;
    const n = bidirectional ? Math.abs(relative) : Math.max(-relative, 0);
    if (n < exact) return start + n;
    if (n >= maxDistance) return start + count - 1;
    let t = cache.get(n);
    if (t === undefined) cache.set(n, (t = logBucket(n, exact, maxDistance, count - exact)));
    return start + Math.min(count - 1, exact + t);
  };
}

/** The map from distances (query - key) to buckets, shared by all layers. */
export function t5Index(config: T5BiasConfig): RelativeIndex {
  const bucket = t5Buckets(config);
  return new RelativeIndex(config.numBuckets ?? 32, (distance) => bucket(-distance));
}

/**
 * T5's relative bias: score' = score + table[bucket(key - query), head]; one table for all layers. T5 itself does not
 * scale by headDim^-0.5.
 *
 * table [numBuckets, heads]. Raffel et al. 2020, arXiv:1910.10683, section 2.1.
 */
export function t5Bias(table: Tensor, index: RelativeIndex): RelativeModifier {
  if (table.rank !== 2 || table.shape[0] !== index.rows) {
    throw new ConfigError(
      "t5Bias",
      `table has shape [${table.shape.join(", ")}]; it must be [${index.rows}, heads]`,
    );
  }
  return { kind: "relative", name: "t5Bias", axes: "h", tensor: transpose(table), index };
}

/** `t5Bias` with its table, `weight` [numBuckets, heads], and its map of distances: one for all layers. */
export class T5Bias implements Module {
  readonly weight: Tensor;
  readonly index: RelativeIndex;

  constructor(weight: Tensor, config: T5BiasConfig) {
    this.weight = weight;
    this.index = t5Index(config);
  }

  /** Normal numbers of deviation `std` (0.02). */
  static init(
    gpu: Gpu,
    config: T5BiasConfig & { readonly numHeads: number; readonly std?: number; readonly seed?: number },
  ): T5Bias {
    expectObject("T5Bias", "config", config);
    const { numHeads, std = 0.02, seed = 0, ...own } = config;
    expectInteger("T5Bias", "numHeads", numHeads, 1);
    expectNumber("T5Bias", "std", std, 0);
    const rows = t5Index(own).rows;
    const weight = gpu.scope(() => mul(randomNormal(gpu, [rows, numHeads], { seed }), std));
    return new T5Bias(gpu.keep(weight), own);
  }

  static fromParameters(config: T5BiasConfig, parameters: Readonly<Record<string, Tensor>>): T5Bias {
    return new T5Bias(takeParameter("T5Bias", parameters, "weight"), config);
  }

  /** The term that attention adds. */
  modifier(): RelativeModifier {
    return t5Bias(this.weight, this.index);
  }

  parameters(): Record<string, Tensor> {
    return { weight: this.weight };
  }

  /** Free the table of distances; the parameter belongs to the caller. */
  dispose(): void {
    this.index.dispose();
  }
}
