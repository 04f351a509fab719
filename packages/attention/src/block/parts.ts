import {
  e,
  elementwise,
  gather,
  mean,
  mul,
  schema,
  slice,
  stack,
  sub,
  value,
  type Gpu,
  type Tensor,
} from "@x/kernels";

/**
 * What the mechanisms here need of other topics. They bring plain forms, composed of general ops, so that the package
 * works alone; give the fused ones in their place: `{ rmsNorm, rope }` with `rmsNorm` of @x/norm and a
 * `RotaryEmbedding` of @x/positional, which also knows the extended contexts.
 */
export interface Parts {
  /** x / sqrt(mean(x^2) + eps) * weight over the last axis. */
  readonly rmsNorm?: RmsNorm | undefined;
  /** Turns interleaved pairs of [batch, seq, heads, features] by position. */
  readonly rope?: Rope | undefined;
}

const PARTS = schema("parts", {
  rmsNorm: value(
    "Norm over the last axis.",
    "a function",
    (given: unknown): given is RmsNorm => typeof given === "function",
    { optional: true },
  ),
  rope: value(
    "Rotation by position.",
    "a rotary embedding",
    (given: unknown): given is Rope =>
      typeof given === "object" && given !== null && typeof Reflect.get(given, "apply") === "function",
    { optional: true },
  ),
});

/** Refuses what is no part. @throws ConfigError */
export function checkParts(who: string, parts: Parts): void {
  PARTS.read(parts, `${who}: parts`);
}

export type RmsNorm = (x: Tensor, options: { readonly weight: Tensor; readonly eps: number }) => Tensor;

/** A rotary embedding: rows are counted from `positionOffset`, or stand at `positionIds`, all below `maxPositions`. */
export interface Rope {
  apply(
    x: Tensor,
    options: {
      readonly layout: "bshd";
      readonly positionOffset?: number;
      readonly positionIds?: Tensor;
      /** Tokens of the whole text, what a cache holds and what is new: frequencies may depend on it. */
      readonly seqLen: number;
      /** With `positionIds`: rows that a table needs; those of the cache, so that it stays as the text grows. */
      readonly maxPositions?: number;
    },
  ): Tensor;
  /** Whether a text of `to` tokens is rotated otherwise than one of `from` tokens; default: never. */
  changes?(from: number, to: number): boolean;
  dispose?(): void;
}

const rmsScale = elementwise("rmsNorm", ["x", "square", "weight", "eps"], (x, square, weight, eps) =>
  e.mul(e.mul(x, e.rsqrt(e.add(square, eps))), weight),
);

export const plainRmsNorm: RmsNorm = (x, { weight, eps }) =>
  x.gpu.scope(() => rmsScale(x, mean(mul(x, x), { axes: -1, keepDims: true }), weight, eps));

const layerScale = elementwise(
  "layerNorm",
  ["x", "variance", "weight", "bias"],
  (x, variance, weight, bias) => e.add(e.mul(e.mul(x, e.rsqrt(e.add(variance, 1e-5))), weight), bias),
);

/** (x - mean) / sqrt(var + 1e-5) * weight + bias over the last axis. */
export function plainLayerNorm(x: Tensor, weight: Tensor, bias: Tensor): Tensor {
  return x.gpu.scope(() => {
    const last = { axes: -1, keepDims: true };
    const centered = sub(x, mean(x, last));
    return layerScale(centered, mean(mul(centered, centered), last), weight, bias);
  });
}

const turn = elementwise("rope", ["x", "y", "cos", "sin"], (x, y, cos, sin) =>
  e.sub(e.mul(x, cos), e.mul(y, sin)),
);
const turnBack = elementwise("rope", ["x", "y", "cos", "sin"], (x, y, cos, sin) =>
  e.add(e.mul(x, sin), e.mul(y, cos)),
);

/** RoPE on interleaved pairs: angle position * base^(-2t / dim) (Su et al. 2021, arXiv:2104.09864, equation 34). */
export class PlainRope implements Rope {
  readonly #gpu: Gpu;
  readonly #dim: number;
  readonly #base: number;
  #tables: { readonly cos: Tensor; readonly sin: Tensor } | undefined;

  constructor(gpu: Gpu, dim: number, base: number) {
    this.#gpu = gpu;
    this.#dim = dim;
    this.#base = base;
  }

  apply(
    x: Tensor,
    { positionOffset = 0, positionIds, seqLen, maxPositions = seqLen }: Parameters<Rope["apply"]>[1],
  ): Tensor {
    const [batch, seq] = x.shape as [number, number];
    return x.gpu.scope(() => {
      const tables = this.#rows(maxPositions);
      const rows = (table: Tensor): Tensor =>
        positionIds
          ? gather(table, positionIds).reshape([batch, seq, 1, this.#dim / 2])
          : slice(table, { axis: 0, start: positionOffset, end: positionOffset + seq }).reshape([
              seq,
              1,
              this.#dim / 2,
            ]);
      const [cos, sin] = [rows(tables.cos), rows(tables.sin)];
      const [even, odd] = [slice(x, { axis: 3, step: 2 }), slice(x, { axis: 3, start: 1, step: 2 })];
      return stack([turn(even, odd, cos, sin), turnBack(even, odd, cos, sin)], 4).reshape(x.shape);
    });
  }

  /** Tables of at least `count` positions, in double precision, doubled when outgrown. */
  #rows(count: number): { cos: Tensor; sin: Tensor } {
    const held = this.#tables?.cos.shape[0] ?? 0;
    if (this.#tables && held >= count) return this.#tables;
    const size = Math.max(count, 2 * held);
    const half = this.#dim / 2;
    const table = (of: (angle: number) => number): Tensor =>
      this.#gpu.keep(
        this.#gpu.tensor(
          Float32Array.from({ length: size * half }, (_, i) =>
            of(Math.floor(i / half) * this.#base ** ((-2 * (i % half)) / this.#dim)),
          ),
          [size, half],
        ),
      );
    this.dispose();
    return (this.#tables = { cos: table(Math.cos), sin: table(Math.sin) });
  }

  dispose(): void {
    this.#tables?.cos.dispose();
    this.#tables?.sin.dispose();
    this.#tables = undefined;
  }
}

/** Rows [sin(t f); cos(t f)], f_i = 10000^(-2i / dim), for t = 0..rows-1 (Transformer-XL's R_t). */
export function sinusoids(gpu: Gpu, rows: number, dim: number): Tensor {
  const half = dim / 2;
  const data = Float32Array.from({ length: rows * dim }, (_, n) => {
    const [t, i] = [Math.floor(n / dim), n % dim];
    const angle = t * 10000 ** ((-2 * (i % half)) / dim);
    return i < half ? Math.sin(angle) : Math.cos(angle);
  });
  return gpu.tensor(data, [rows, dim]);
}
