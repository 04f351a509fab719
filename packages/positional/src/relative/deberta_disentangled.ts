import {
  checkConfig,
  ConfigError,
  expectInteger,
  expectOneOf,
  linear,
  matmul,
  RelativeIndex,
  ShapeError,
  showShape,
  transpose,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";

export interface DebertaConfig {
  /** k of version 1; the largest distance of the log buckets in version 2. */
  readonly maxDistance: number;
  /** Log buckets of versions 2 and 3. */
  readonly positionBuckets?: number | undefined;
  /** Content to position and position to content; default both. */
  readonly c2p?: boolean;
  readonly p2c?: boolean;
  /** Rows of the position-to-content term: as in all public code and weights, or as the paper prints it. */
  readonly p2cIndex?: "queryMinusKey" | "keyMinusQuery";
}

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

function check(who: string, config: DebertaConfig): { span: number; mid: number } {
  checkConfig(who, config, ["maxDistance", "positionBuckets", "c2p", "p2c", "p2cIndex"]);
  const { maxDistance, positionBuckets } = config;
  expectInteger(who, "maxDistance", maxDistance, 1);
  if (positionBuckets === undefined) return { span: maxDistance, mid: 0 };
  expectInteger(who, "positionBuckets", positionBuckets, 2);
  return { span: positionBuckets, mid: Math.floor(positionBuckets / 2) };
}

/** Bucket of query - key: itself, or logarithmic beyond half of the buckets. */
export function debertaBucket(config: DebertaConfig): (delta: number) => number {
  const { mid } = check("debertaBucket", config);
  if (mid === 0) return (delta) => delta;
  const cache = new Map<number, number>();
  const last = config.maxDistance - 1;
  return (delta) => {
    const n = Math.min(Math.abs(delta), last);
    if (n <= mid) return Math.sign(delta) * n;
    let t = cache.get(n);
    if (t === undefined) cache.set(n, (t = mid + logBucket(n, mid, last)));
    return Math.sign(delta) * t;
  };
}

/** Rows of both position terms for each distance. */
export function debertaIndices(config: DebertaConfig): { c2p: RelativeIndex; p2c: RelativeIndex } {
  const { span } = check("debertaIndices", config);
  const bucket = debertaBucket(config);
  const clip = (row: number): number => Math.min(2 * span - 1, Math.max(0, row));
  const { p2cIndex = "queryMinusKey" } = config;
  expectOneOf("debertaIndices", "p2cIndex", p2cIndex, ["queryMinusKey", "keyMinusQuery"]);
  return {
    c2p: new RelativeIndex(2 * span, (d) => clip(bucket(d) + span)),
    p2c: new RelativeIndex(
      2 * span,
      p2cIndex === "queryMinusKey" ? (d) => clip(bucket(d) + span) : (d) => clip(span - bucket(d)),
    ),
  };
}

export interface DebertaWeights {
  /** [2 span, modelDim] */
  readonly relEmbedding: Tensor;
  /** [heads * headDim, modelDim] */
  readonly posKeyWeight?: Tensor | undefined;
  readonly posQueryWeight?: Tensor | undefined;
  readonly posKeyBias?: Tensor | undefined;
  readonly posQueryBias?: Tensor | undefined;
}

/**
 * DeBERTa's disentangled scores: s (q_i . k_j + q_i . Kr[row] + k_j . Qr[row']), s = 1 / sqrt(headDim (1 + c2p + p2c)).
 * Gives the scale of attention and the position terms as modifiers.
 *
 * q, k [batch, heads, seq, headDim]. He et al. 2021, arXiv:2006.03654, equations 2-4; log buckets arXiv:2111.09543.
 *
 * @throws ConfigError, ShapeError
 */
export function debertaDisentangled(
  q: Tensor,
  k: Tensor,
  weights: DebertaWeights,
  config: DebertaConfig,
  indices?: { readonly c2p: RelativeIndex; readonly p2c: RelativeIndex },
): { scale: number; modifiers: RelativeModifier[] } {
  const who = "debertaDisentangled";
  const { span } = check(who, config);
  const { c2p = true, p2c = true } = config;
  const { relEmbedding, posKeyWeight, posQueryWeight, posKeyBias, posQueryBias } = weights;
  if (q.rank !== 4)
    throw new ShapeError(who, `q has shape ${showShape(q.shape)}; it must be [batch, heads, seq, headDim]`);
  const [, heads, , headDim] = q.shape as [number, number, number, number];
  if (relEmbedding.rank !== 2 || relEmbedding.shape[0] !== 2 * span) {
    throw new ShapeError(
      who,
      `relEmbedding has shape ${showShape(relEmbedding.shape)}; it must be [${2 * span}, modelDim]`,
    );
  }
  const maps = indices ?? debertaIndices(config);
  if (!indices) {
    // They keep tables on the device, which go with the caller's scope.
    q.gpu.currentScope?.endings.push(() => {
      maps.c2p.dispose();
      maps.p2c.dispose();
    });
  }
  const scale = 1 / Math.sqrt(headDim * (1 + Number(c2p) + Number(p2c)));
  return q.gpu.scope(() => {
    const term = (
      name: string,
      axes: "bhq" | "bhk",
      content: Tensor,
      weight: Tensor | undefined,
      bias: Tensor | undefined,
      index: RelativeIndex,
    ): RelativeModifier => {
      if (!weight) throw new ConfigError(who, `the ${name} term needs its projection`);
      const rows = transpose(
        linear(relEmbedding, weight, bias).reshape([2 * span, heads, headDim]),
        [1, 0, 2],
      );
      return {
        kind: "relative",
        name,
        axes,
        tensor: matmul(content, rows, { transposeB: true, alpha: scale }),
        index,
      };
    };
    const modifiers: RelativeModifier[] = [];
    if (c2p) modifiers.push(term("c2p", "bhq", q, posKeyWeight, posKeyBias, maps.c2p));
    if (p2c) modifiers.push(term("p2c", "bhk", k, posQueryWeight, posQueryBias, maps.p2c));
    return { scale, modifiers };
  });
}
