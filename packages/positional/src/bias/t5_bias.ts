import {
  boolean,
  Component,
  expectDType,
  integer,
  matrix,
  RelativeIndex,
  schema,
  ShapeError,
  showShape,
  expectInteger,
  transpose,
  type Config,
  type ParameterPlan,
  type Parameters,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { relativeIndex } from "../relative/relative_index.js";

const BUCKETS = {
  numBuckets: integer("Rows of the table.", { min: 2, default: 32 }),
  maxDistance: integer("Distances from here on share the last bucket.", { min: 1, default: 128 }),
  bidirectional: boolean("Keys after the query have buckets of their own."),
};
const T5_BUCKETS = schema("t5Buckets", BUCKETS);
const T5_BIAS = schema("T5Bias", {
  numHeads: integer("Heads of the queries.", { min: 1 }),
  ...BUCKETS,
});
const INDEX = relativeIndex("Row of each distance, from `t5Index`.");
export type T5BucketsConfig = Config<typeof T5_BUCKETS>;
export type T5BiasConfig = Config<typeof T5_BIAS>;

/** Greatest t with (n / e)^m >= (max / e)^t, exact in integers: n^m e^t >= max^t e^m. */
function logBucket(n: number, e: number, max: number, m: number): number {
  let t = 0;
  const [N, E, M] = [BigInt(n), BigInt(e), BigInt(max)];
  const left = N ** BigInt(m);
  const unit = E ** BigInt(m);
  while (t < m && left * E ** BigInt(t + 1) >= M ** BigInt(t + 1) * unit) t++;
  return t;
}

/**
 * Bucket of key position - query position: exact up to half of the buckets, then logarithmic.
 *
 * @throws ConfigError
 */
export function t5Buckets(config: T5BucketsConfig): (relative: number) => number {
  const who = T5_BUCKETS.name;
  const { numBuckets, maxDistance, bidirectional } = T5_BUCKETS.read(config);
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

/** The map from distances (query - key) to buckets, shared by all layers. @throws ConfigError */
export function t5Index(config: T5BucketsConfig): RelativeIndex {
  const { numBuckets } = T5_BUCKETS.read(config, "t5Index");
  const bucket = t5Buckets(config);
  return new RelativeIndex(numBuckets, (distance) => bucket(-distance));
}

/**
 * T5's relative bias: score' = score + table[bucket(key - query), head]; one table for all layers. T5 itself does not
 * scale by headDim^-0.5.
 *
 * table [numBuckets, heads], f32; `index` from `t5Index`. Raffel et al. 2020, arXiv:1910.10683, section 2.1.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function t5Bias(table: Tensor, index: RelativeIndex): RelativeModifier {
  const who = "t5Bias";
  expectDType(who, "table", table, "f32", "f16");
  INDEX.check(who, "index", index);
  if (table.rank !== 2 || table.shape[0] !== index.rows)
    throw new ShapeError(who, `table has shape ${showShape(table.shape)}; it must be [${index.rows}, heads]`);
  return { kind: "relative", name: who, axes: "h", tensor: transpose(table), index };
}

/**
 * `t5Bias` with its table, `weight` [numBuckets, numHeads], initially normal of deviation 0.02, and its map of
 * distances: one for all layers.
 */
export class T5Bias extends Component<typeof T5_BIAS> {
  static readonly schema = T5_BIAS;
  /** Row of each distance; the component frees its table on the device. */
  readonly index: RelativeIndex;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: T5BiasConfig): ParameterPlan {
    const { numHeads, ...buckets } = T5_BIAS.read(config);
    t5Buckets(buckets);
    return { weight: matrix(buckets.numBuckets, numHeads) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: T5BiasConfig, parameters: Parameters) {
    super(T5_BIAS, config, T5Bias.plan(config), parameters);
    const { numBuckets, maxDistance, bidirectional } = this.config;
    this.index = this.own(t5Index({ numBuckets, maxDistance, bidirectional }));
  }

  /** The term that attention adds to its scores. */
  modifier(): RelativeModifier {
    return t5Bias(this.weights["weight"]!, this.index);
  }
}
