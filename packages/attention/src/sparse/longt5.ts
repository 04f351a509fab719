import {
  cast,
  Component,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectInteger,
  expectShape,
  integer,
  matrix,
  mul,
  number,
  ones,
  RelativeIndex,
  scatterAdd,
  schema,
  slice,
  sum,
  tensor,
  transpose,
  type Config,
  type Gpu,
  type ParameterPlan,
  type Parameters,
  type RelativeModifier,
  type Tensor,
} from "@x/kernels";
import { attentionOutputs } from "../engine/attention.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { hideRows } from "../block/hidden_rows.js";
import { mergeAttention } from "../engine/merge.js";
import { checkParts, plainRmsNorm, type Parts, type RmsNorm } from "../block/parts.js";

const LONG_T5 = schema("LongT5Attention", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  numHeads: integer("Heads.", { min: 1 }),
  headDim: integer("Features of a head.", { min: 1 }),
  radius: integer("Keys that a query sees on each side.", { min: 0 }),
  globalBlock: integer(
    "Tokens of a block, whose sum is one transient global token; 0: local attention only.",
    {
      min: 0,
      default: 0,
    },
  ),
  numBuckets: integer("Buckets of the relative bias, both directions together; a multiple of 4.", {
    min: 4,
    default: 32,
  }),
  maxDistance: integer("Distances from here on share the last bucket.", { min: 1, default: 128 }),
  normEps: number("Added to the mean square in the global tokens' norm.", { min: 0, default: 1e-6 }),
});
export type LongT5Config = Config<typeof LONG_T5>;

const OPTIONS = schema("LongT5Attention.forward", {
  keyMask: tensor("i32 [batch, seq]: 1 is a token, 0 padding, which lies on the right.", { optional: true }),
});
export type LongT5Options = Config<typeof OPTIONS>;

/**
 * Bucket of a relative position (key - query): exact for small distances, logarithmic up to maxDistance, positive
 * ones in the upper half (Raffel et al. 2020, arXiv:1910.10683).
 */
function relativeBucket(relative: number, numBuckets: number, maxDistance: number): number {
  const half = numBuckets / 2;
  const start = relative > 0 ? half : 0;
  const [a, exact] = [Math.abs(relative), half / 2];
  if (a < exact) return start + a;
  const log = Math.floor((Math.log(a / exact) / Math.log(maxDistance / exact)) * (half - exact));
  return start + Math.min(half - 1, exact + log);
}

// Blocks whose last token is real; each real token's block, the tail in the last; -1 for padding.
const blockOf = elementwise("longT5Block", ["real", "at", "full"], (real, at, full) =>
  e.select(e.mul(real, e.min(full, 1)), e.min(at, e.sub(full, 1)), -1),
);
const blockRow = elementwise("longT5Row", ["block", "first"], (block, first) =>
  e.select(e.lt(block, 0), -1, e.add(block, first)),
);
const firstOf = elementwise("longT5Query", ["block"], (block) => e.max(block, 0));
const keyOf = elementwise("longT5Key", ["at", "full"], (at, full) => e.select(e.lt(at, full), at, -1));

/**
 * LongT5 encoder attention, local and transient global: s_ij = q_i . k_j + relBias[bucket(j - i)] for |i - j| <=
 * radius; t_iJ = q_i . (side_J W_k) + globalRelBias[bucket(J - block(i))], side_J = RMSNorm(sum of the block's x);
 * one softmax over both. No scaling of scores. Padded rows give 0.
 *
 * x [batch, seq, dim], f32, padding on the right. Parameters q_proj, k_proj, v_proj [numHeads headDim, dim], o_proj [dim,
 * numHeads headDim], relative_attention_bias [numBuckets, numHeads], with globalBlock also
 * global_relative_attention_bias [numBuckets, numHeads] and global_input_layer_norm [dim] (all `.weight`);
 * matrices initially normal, norms ones. Guo et al. 2021, arXiv:2112.07916, section 3.
 */
export class LongT5Attention extends Component<typeof LONG_T5> {
  static readonly schema = LONG_T5;
  readonly #norm: RmsNorm;
  readonly #index: RelativeIndex;
  readonly #globalIndex: RelativeIndex;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: LongT5Config, parameters: Parameters, parts: Parts = {}) {
    super(LONG_T5, config, LongT5Attention.plan(config), parameters);
    checkParts(LONG_T5.name, parts);
    this.#norm = parts.rmsNorm ?? plainRmsNorm;
    const { numBuckets, maxDistance } = this.config;
    const index = (): RelativeIndex =>
      this.own(
        new RelativeIndex(numBuckets, (distance) => relativeBucket(-distance, numBuckets, maxDistance)),
      );
    [this.#index, this.#globalIndex] = [index(), index()];
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: LongT5Config): ParameterPlan {
    const { name: who } = LONG_T5;
    const { dim, numHeads, headDim, globalBlock, numBuckets, maxDistance } = LONG_T5.read(config);
    if (numBuckets % 4 !== 0)
      throw new ConfigError(who, `numBuckets is ${numBuckets}; it must be a multiple of 4`);
    expectInteger(who, "maxDistance", maxDistance, numBuckets / 4 + 1);
    const inner = numHeads * headDim;
    return {
      "q_proj.weight": matrix(inner, dim),
      "k_proj.weight": matrix(inner, dim),
      "v_proj.weight": matrix(inner, dim, "value"),
      "o_proj.weight": matrix(dim, inner, "output"),
      "relative_attention_bias.weight": matrix(numBuckets, numHeads),
      ...(globalBlock > 0
        ? {
            "global_relative_attention_bias.weight": matrix(numBuckets, numHeads),
            "global_input_layer_norm.weight": ones(dim),
          }
        : {}),
    };
  }

  /**
   * x [batch, seq, dim]; returns the same shape.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  forward(x: Tensor, options: LongT5Options = {}): Tensor {
    const { name: who } = LONG_T5;
    const { keyMask } = OPTIONS.read(options, who);
    const { dim, numHeads, radius, globalBlock, normEps: eps } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, [batch, seq]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    const weight = (name: string): Tensor => this.weights[`${name}.weight`]!;
    const split = (name: string, from: Tensor): Tensor => splitHeads(from, numHeads, weight(name));
    const bias = (name: string, index: RelativeIndex): RelativeModifier => ({
      kind: "relative",
      name,
      axes: "h",
      tensor: transpose(weight(name), [1, 0]),
      index,
    });
    return x.gpu.scope(() => {
      const tokensOnly = hideRows(who, x, keyMask);
      const [q, k, v] = ["q_proj", "k_proj", "v_proj"].map((name) => split(name, tokensOnly)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const near = attentionOutputs(q, k, v, {
        scale: 1,
        window: { left: radius, right: radius },
        modifiers: [bias("relative_attention_bias", this.#index)],
        keyMask,
        layout: "bshd",
      });
      const real = keyMask ? cast(keyMask, "f32") : x.gpu.full([batch, seq], 1);
      let context = near.out;
      const blocks = globalBlock > 0 ? Math.floor(seq / globalBlock) : 0;
      if (blocks > 0) {
        const { rows, query, key } = blocksOf(x.gpu, real, globalBlock);
        const sums = scatterAdd(tokensOnly.reshape([batch * seq, dim]), rows, batch * blocks);
        const side = this.#norm(sums.reshape([batch, blocks, dim]), {
          weight: weight("global_input_layer_norm"),
          eps,
        });
        const far = attentionOutputs(q, split("k_proj", side), split("v_proj", side), {
          scale: 1,
          modifiers: [bias("global_relative_attention_bias", this.#globalIndex)],
          positions: { query, key, minDistance: -blocks, maxDistance: blocks },
          layout: "bshd",
        });
        const heads = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);
        context = heads(
          mergeAttention({ out: heads(near.out), lse: near.lse }, { out: heads(far.out), lse: far.lse }).out,
        );
      }
      const live = keyMask ? mul(context, real.reshape([batch, seq, 1, 1])) : context;
      return mergeHeads(live, weight("o_proj"));
    });
  }
}

/** Which block each token adds to (row of [batch * blocks], -1 none), and positions of tokens and blocks. */
function blocksOf(gpu: Gpu, real: Tensor, size: number): { rows: Tensor; query: Tensor; key: Tensor } {
  const [batch, seq] = real.shape as [number, number];
  const blocks = Math.floor(seq / size);
  const column = (n: number, of: (i: number) => number, shape: number[]): Tensor =>
    gpu.tensor(
      Float32Array.from({ length: n }, (_, i) => of(i)),
      shape,
    );
  const ends = slice(slice(real, { axis: 1, start: 0, end: blocks * size }).reshape([batch, blocks, size]), {
    axis: 2,
    start: size - 1,
    end: size,
  }).reshape([batch, blocks]);
  const full = sum(ends, { axes: 1, keepDims: true });
  const block = blockOf(
    real,
    column(seq, (i) => Math.floor(i / size), [1, seq]),
    full,
  );
  const rows = blockRow(
    block,
    column(batch, (b) => b * blocks, [batch, 1]),
  );
  return {
    rows: cast(rows.reshape([batch * seq]), "i32"),
    query: cast(firstOf(block), "i32"),
    key: cast(
      keyOf(
        column(blocks, (J) => J, [1, blocks]),
        full,
      ),
      "i32",
    ),
  };
}
