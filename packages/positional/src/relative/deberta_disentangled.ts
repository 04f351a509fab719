import {
  boolean,
  ConfigError,
  expectDType,
  expectShape,
  integer,
  linear,
  matmul,
  nested,
  oneOf,
  RelativeIndex,
  schema,
  ShapeError,
  showShape,
  tensor,
  transpose,
  type Config,
  type RelativeModifier,
  type Resolved,
  type Tensor,
} from "@x/kernels";
import { relativeIndex } from "./relative_index.js";

const BUCKETS = {
  maxDistance: integer("k of version 1; the largest distance of the log buckets in versions 2 and 3.", {
    min: 1,
  }),
  positionBuckets: integer("Log buckets of versions 2 and 3.", { min: 2, optional: true }),
  p2cIndex: oneOf(
    "Rows of the position-to-content term: as in all public code and weights, or as the paper prints it.",
    ["queryMinusKey", "keyMinusQuery"],
    { default: "queryMinusKey" },
  ),
};
/** What DeBERTa's position terms are, without the sizes of their parameters. */
export const DEBERTA = {
  ...BUCKETS,
  c2p: boolean("The content-to-position term.", { default: true }),
  p2c: boolean("The position-to-content term.", { default: true }),
};
const DEBERTA_BUCKETS = schema("debertaIndices", BUCKETS);
const INDICES = schema("indices", {
  c2p: relativeIndex("Rows of the content-to-position term."),
  p2c: relativeIndex("Rows of the position-to-content term."),
});
const OPTIONS = schema("debertaDisentangled", {
  ...DEBERTA,
  relEmbedding: tensor(
    "A row for each distance, [2 span, modelDim]; span is positionBuckets or maxDistance.",
  ),
  posKeyWeight: tensor("Projection of c2p, [heads headDim, modelDim].", { optional: true }),
  posKeyBias: tensor("Its bias, [heads headDim].", { optional: true }),
  posQueryWeight: tensor("Projection of p2c, [heads headDim, modelDim].", { optional: true }),
  posQueryBias: tensor("Its bias, [heads headDim].", { optional: true }),
  indices: nested(INDICES, "Rows of both terms for each distance.", {
    defaultDoc: "made for the call",
  }),
});
export type DebertaBucketsConfig = Config<typeof DEBERTA_BUCKETS>;
export type DebertaDisentangledOptions = Config<typeof OPTIONS>;

/** Least t with (M1 / mid)^t >= (n / mid)^(mid - 1), exact in integers. */
function logBucket(n: number, mid: number, M1: number): number {
  const [N, D, M] = [BigInt(n), BigInt(mid), BigInt(M1)];
  const right = N ** BigInt(mid - 1);
  let left = D ** BigInt(mid - 1);
  let t = 0;
  let scaled = right;
  while (left < scaled) {
    left *= M;
    scaled *= D;
    t++;
  }
  return t;
}

/** Bucket of query - key: itself, or logarithmic beyond half of the buckets. @throws ConfigError */
export function debertaBucket(config: DebertaBucketsConfig): (delta: number) => number {
  const { maxDistance, positionBuckets } = DEBERTA_BUCKETS.read(config, "debertaBucket");
  if (positionBuckets === undefined) return (delta) => delta;
  const mid = Math.floor(positionBuckets / 2);
  const cache = new Map<number, number>();
  const last = maxDistance - 1;
  return (delta) => {
    const n = Math.min(Math.abs(delta), last);
    if (n <= mid) return Math.sign(delta) * n;
    let t = cache.get(n);
    if (t === undefined) cache.set(n, (t = mid + logBucket(n, mid, last)));
    return Math.sign(delta) * t;
  };
}

/** Rows of both position terms for each distance. @throws ConfigError */
export function debertaIndices(config: DebertaBucketsConfig): { c2p: RelativeIndex; p2c: RelativeIndex } {
  const { maxDistance, positionBuckets, p2cIndex } = DEBERTA_BUCKETS.read(config);
  const span = positionBuckets ?? maxDistance;
  const bucket = debertaBucket(config);
  const clip = (row: number): number => Math.min(2 * span - 1, Math.max(0, row));
  return {
    c2p: new RelativeIndex(2 * span, (d) => clip(bucket(d) + span)),
    p2c: new RelativeIndex(
      2 * span,
      p2cIndex === "queryMinusKey" ? (d) => clip(bucket(d) + span) : (d) => clip(span - bucket(d)),
    ),
  };
}

/** Checks shapes and dtypes; returns the heads and their width. */
function checkTensors(
  q: Tensor,
  k: Tensor,
  {
    relEmbedding,
    posKeyWeight,
    posKeyBias,
    posQueryWeight,
    posQueryBias,
    c2p,
    p2c,
    ...buckets
  }: Resolved<typeof OPTIONS>,
): { heads: number; headDim: number } {
  const who = OPTIONS.name;
  const rows = 2 * (buckets.positionBuckets ?? buckets.maxDistance);
  if (q.rank !== 4)
    throw new ShapeError(who, `q has shape ${showShape(q.shape)}; it must be [batch, heads, seq, headDim]`);
  const [batch, heads, , headDim] = q.shape as [number, number, number, number];
  expectShape(who, "k", k, [batch, heads, null, headDim]);
  expectDType(who, "relEmbedding", relEmbedding, "f32", "f16");
  if (relEmbedding.rank !== 2 || relEmbedding.shape[0] !== rows)
    throw new ShapeError(
      who,
      `relEmbedding has shape ${showShape(relEmbedding.shape)}; it must be [${rows}, modelDim]`,
    );
  for (const [name, used, weight, bias] of [
    ["c2p", c2p, posKeyWeight, posKeyBias],
    ["p2c", p2c, posQueryWeight, posQueryBias],
  ] as const) {
    if (used && !weight) throw new ConfigError(who, `the ${name} term needs its projection`);
    for (const [kind, t, shape] of [
      ["weight", weight, [heads * headDim, relEmbedding.shape[1]!]],
      ["bias", bias, [heads * headDim]],
    ] as const)
      if (t) {
        expectDType(who, `the ${name} term's ${kind}`, t, "f32", "f16");
        expectShape(who, `the ${name} term's ${kind}`, t, shape);
      }
  }
  return { heads, headDim };
}

/**
 * DeBERTa's disentangled scores: s (q_i . k_j + q_i . Kr[row] + k_j . Qr[row']), s = 1 / sqrt(headDim (1 + c2p + p2c)).
 * Gives the scale of attention and the position terms as modifiers.
 *
 * q, k [batch, heads, seq, headDim], f32 or f16. He et al. 2021, arXiv:2006.03654, equations 2-4; log buckets
 * arXiv:2111.09543.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function debertaDisentangled(
  q: Tensor,
  k: Tensor,
  options: DebertaDisentangledOptions,
): { scale: number; modifiers: RelativeModifier[] } {
  const who = OPTIONS.name;
  expectDType(who, "q", q, "f32", "f16");
  expectDType(who, "k", k, "f32", "f16");
  const read = OPTIONS.read(options);
  const { relEmbedding, c2p, p2c, indices, maxDistance, positionBuckets, p2cIndex } = read;
  const { heads, headDim } = checkTensors(q, k, read);
  const span = positionBuckets ?? maxDistance;
  const maps = indices ?? debertaIndices({ maxDistance, positionBuckets, p2cIndex });
  if (!indices) {
    // They keep tables on the device, which go with the caller's scope.
    q.gpu.currentScope?.endings.push(() => {
      maps.c2p.dispose();
      maps.p2c.dispose();
    });
  }
  const scale = 1 / Math.sqrt(headDim * (1 + Number(c2p) + Number(p2c)));
  return q.gpu.scope(() => {
    const rowsTimes = (content: Tensor, weight: Tensor | undefined, bias: Tensor | undefined): Tensor => {
      const rows = transpose(
        linear(relEmbedding, weight!, bias).reshape([2 * span, heads, headDim]),
        [1, 0, 2],
      );
      return matmul(content, rows, { transposeB: true, alpha: scale });
    };
    const modifiers: RelativeModifier[] = [];
    if (c2p) {
      const tensor = rowsTimes(q, read.posKeyWeight, read.posKeyBias);
      modifiers.push({ kind: "relative", name: "c2p", axes: "bhq", tensor, index: maps.c2p });
    }
    if (p2c) {
      const tensor = rowsTimes(k, read.posQueryWeight, read.posQueryBias);
      modifiers.push({ kind: "relative", name: "p2c", axes: "bhk", tensor, index: maps.p2c });
    }
    return { scale, modifiers };
  });
}
