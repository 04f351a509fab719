import {
  add,
  Component,
  concat,
  ConfigError,
  expectShape,
  expectTensor,
  integer,
  linear,
  matmul,
  matrix,
  RelativeIndex,
  schema,
  slice,
  stopGradient,
  tensor,
  transpose,
  value,
  type Config,
  type Gpu,
  type ParameterPlan,
  type Parameters,
  type Stateful,
  type Tensor,
} from "@x/kernels";
import { expectTokens } from "../block/block.js";
import { HEADS_FIELDS, headDimOf, mergeHeads, splitHeads } from "../block/heads.js";
import { sinusoids } from "../block/parts.js";
import { POSITION_FIELDS, STATE_FIELDS } from "../cache/fields.js";
import { KVCache } from "../cache/kv_cache.js";
import type { TokenPositions } from "../cache/slots.js";
import { attention } from "../engine/attention.js";
import type { AttentionOptions } from "../engine/options.js";

/** What the attention's and the stack's configuration have in common. */
export const TRANSFORMER_XL_FIELDS = {
  ...HEADS_FIELDS,
  clampLen: integer("Distance from which all are taken as this one in the positional term; 0: no limit.", {
    min: 0,
    default: 0,
  }),
};

const ATTENTION = schema("TransformerXlAttention", {
  ...TRANSFORMER_XL_FIELDS,
  segmentLen: integer("Tokens of a segment.", { min: 1, defaultDoc: "the whole call" }),
  memLen: integer("Tokens before its segment that a token sees.", {
    min: 0,
    defaultDoc: "the length of `memory`",
  }),
});
export type TransformerXlAttentionConfig = Config<typeof ATTENTION>;

const OPTIONS = schema("TransformerXlAttention.forward", {
  memory: tensor("[batch, M, dim]: hidden states of the M tokens before; no gradient flows into them.", {
    optional: true,
  }),
  state: value(
    "Projected keys and values of the memory and the segment so far, which the call adds to.",
    "a KVCache",
    (given: unknown): given is KVCache => given instanceof KVCache,
    { optional: true },
  ),
  positions: POSITION_FIELDS.positions,
  residual: tensor("Added to the output.", { optional: true }),
});
export type TransformerXlAttentionOptions = Config<typeof OPTIONS>;

/** The size of a state of Transformer-XL. */
export const TRANSFORMER_XL_STATE_FIELDS = {
  ...STATE_FIELDS,
  maxChunk: integer("Most tokens that are taken at a time.", { min: 1, default: 64 }),
};
const STATE = schema("TransformerXlAttention.createState", TRANSFORMER_XL_STATE_FIELDS);

/**
 * Transformer-XL's attention: keys and values over c = [memory; x], scores with relative positions. With t = i + M - j
 * the distance, s_ij = headDim^-0.5 [(q_i + u) . k_j + (q_i + v) . (R_t Wr^T)] for t >= 0, R_t = [sin(t f); cos(t f)],
 * f_e = 10000^(-2e / dim); out = merge(softmax(s) v) Wo^T. (q + v) . R_t is computed for every t once and looked up.
 *
 * A sequence is cut into segments of segmentLen; each sees the memLen hidden states before it, without gradient.
 *
 * x [batch, seq, dim], f32 or f16, dim even. Parameters q_proj, k_proj, v_proj, r_proj, o_proj (`.weight`), u and v
 * [numHeads, headDim], all initially normal. Dai et al. 2019, arXiv:1901.02860, section 3.
 */
export class TransformerXlAttention extends Component<typeof ATTENTION> implements Stateful<KVCache> {
  static readonly schema = ATTENTION;
  readonly headDim: number;
  /** By number of rows; segments of a sequence need a few. */
  readonly #distances: Map<number, { readonly table: Tensor; readonly index: RelativeIndex }> = new Map<
    number,
    { readonly table: Tensor; readonly index: RelativeIndex }
  >();

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: TransformerXlAttentionConfig, parameters: Parameters) {
    super(ATTENTION, config, TransformerXlAttention.plan(config), parameters);
    this.headDim = headDimOf(ATTENTION.name, this.config);
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: TransformerXlAttentionConfig): ParameterPlan {
    const { name: who } = ATTENTION;
    const read = ATTENTION.read(config);
    const { dim, numHeads } = read;
    if (dim % 2 !== 0) throw new ConfigError(who, `dim is ${dim}; it must be even`);
    const headDim = headDimOf(who, read);
    const inner = numHeads * headDim;
    return {
      "q_proj.weight": matrix(inner, dim),
      "k_proj.weight": matrix(inner, dim),
      "v_proj.weight": matrix(inner, dim, "value"),
      "r_proj.weight": matrix(inner, dim),
      "o_proj.weight": matrix(dim, inner, "output"),
      u: matrix(numHeads, headDim),
      v: matrix(numHeads, headDim),
    };
  }

  /** An empty state for decoding: a ring of segmentLen + memLen keys and values. @throws ConfigError without both */
  createState(options: Config<typeof STATE>): KVCache {
    const sizes = STATE.read(options);
    const { numHeads } = this.config;
    const { segmentLen, memLen } = this.#segments();
    const window = segmentLen + memLen;
    return new KVCache(this.weights["u"]!.gpu, {
      ...sizes,
      numKvHeads: numHeads,
      headDim: this.headDim,
      window,
    });
  }

  /** What a state needs to be told. @throws ConfigError */
  #segments(): { segmentLen: number; memLen: number } {
    const { segmentLen, memLen } = this.config;
    if (segmentLen === undefined || memLen === undefined)
      throw new ConfigError(
        ATTENTION.name,
        `${segmentLen === undefined ? "segmentLen" : "memLen"} is missing; decoding needs it`,
      );
    return { segmentLen, memLen };
  }

  /** x [batch, seq, dim]; returns the same shape and dtype. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: TransformerXlAttentionOptions = {}): Tensor {
    const { name: who } = ATTENTION;
    expectTensor(who, "x", x);
    const { memory, state, positions, residual } = OPTIONS.read(options, who);
    const { dim } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    expectTokens(who, seq);
    if (memory) expectShape(who, "memory", memory, [batch, null, dim]);
    if (residual) expectShape(who, "residual", residual, x.shape);
    if (memory && state) throw new ConfigError(who, "memory and state are given; a state holds the memory");
    if (positions !== undefined && !state)
      throw new ConfigError(who, "positions is given without a state; rows are then counted from 0");
    return x.gpu.scope(() => {
      const o = state ? this.#decode(x, state, positions) : this.#bySegments(x, memory);
      return mergeHeads(o, this.weights["o_proj.weight"]!, undefined, residual);
    });
  }

  /** Heads' outputs [batch, seq, numHeads, headDim], a segment after the other. */
  #bySegments(x: Tensor, memory: Tensor | undefined): Tensor {
    const [batch, seq, dim] = x.shape as [number, number, number];
    const { segmentLen = seq, memLen = memory?.shape[1] ?? 0 } = this.config;
    const none = x.gpu.empty([batch, 0, dim]);
    let before = memory ? lastRows(none, memory, memLen) : none;
    const outs: Tensor[] = [];
    for (let start = 0; start < seq; start += segmentLen) {
      const segment = slice(x, { axis: 1, start, end: Math.min(seq, start + segmentLen) });
      outs.push(this.#attend(segment, before));
      before = lastRows(before, segment, memLen);
    }
    return outs.length === 1 ? outs[0]! : concat(outs, 1);
  }

  /** Heads' outputs [batch, seq, numHeads, headDim] over the memory and x. */
  #attend(x: Tensor, memory: Tensor): Tensor {
    const context = memory.shape[1]! > 0 ? concat([stopGradient(memory), x], 1) : x;
    const [q, k, v] = this.#heads(x, context);
    return this.#scores(q, k, v, context.shape[1]! - 1, {});
  }

  #decode(x: Tensor, cache: KVCache, given: TokenPositions): Tensor {
    const seq = x.shape[1]!;
    const { segmentLen, memLen } = this.#segments();
    const longest = segmentLen + memLen - 1;
    if (cache.config.window !== longest + 1)
      throw new ConfigError(
        ATTENTION.name,
        `the state has a window of ${cache.config.window ?? "all"} keys; it must be segmentLen + memLen, ${longest + 1}`,
      );
    const ids = cache.place(seq, given);
    // A token sees what its segment's first token saw, and the segment so far.
    const pattern = {
      wgsl: `fn pattern(h: u32, i: i32, j: i32) -> bool { return j >= i / ${segmentLen} * ${segmentLen} - ${memLen}; }`,
    };
    const outs: Tensor[] = [];
    for (let start = 0; start < seq; start += cache.maxChunk) {
      const end = Math.min(seq, start + cache.maxChunk);
      const piece = slice(x, { axis: 1, start, end });
      const [q, k, v] = this.#heads(piece, piece);
      const where = cache.append(k, v, cache.part(ids, start, end));
      outs.push(
        this.#scores(q, cache.keys, cache.values, longest, {
          pattern,
          positions: { ...where, minDistance: 0, maxDistance: longest },
        }),
      );
    }
    return outs.length === 1 ? outs[0]! : concat(outs, 1);
  }

  #heads(x: Tensor, context: Tensor): [q: Tensor, k: Tensor, v: Tensor] {
    const cut = (from: Tensor, name: string): Tensor =>
      splitHeads(from, this.config.numHeads, this.weights[`${name}.weight`]!);
    return [cut(x, "q_proj"), cut(context, "k_proj"), cut(context, "v_proj")];
  }

  /** Attention whose scores have the relative terms; distances are at most `longest`. */
  #scores(q: Tensor, k: Tensor, v: Tensor, longest: number, options: AttentionOptions): Tensor {
    const { headDim } = this;
    const { numHeads } = this.config;
    const p = this.weights;
    const scale = headDim ** -0.5;
    const { table, index } = this.#relative(q.gpu, longest);
    const shifted = (bias: Tensor): Tensor => add(q, bias);
    // (q + v) . (R_t Wr^T) for every t: [batch, numHeads, seq, rows].
    const keys = transpose(
      linear(table, p["r_proj.weight"]!).reshape([index.rows, numHeads, headDim]),
      [1, 0, 2],
    );
    const tensor = matmul(transpose(shifted(p["v"]!), [0, 2, 1, 3]), keys, {
      transposeB: true,
      alpha: scale,
    });
    return attention(shifted(p["u"]!), k, v, {
      ...options,
      causal: true,
      layout: "bshd",
      scale,
      modifiers: [{ kind: "relative", name: "transformerXl", axes: "bhq", tensor, index }],
    });
  }

  /** R_t for t = 0..longest (or clampLen), and which row a distance takes; built once and kept. */
  #relative(gpu: Gpu, longest: number): { table: Tensor; index: RelativeIndex } {
    const { dim, clampLen } = this.config;
    const rows = (clampLen > 0 ? Math.min(longest, clampLen) : longest) + 1;
    let found = this.#distances.get(rows);
    if (!found) {
      if (this.#distances.size >= 8) this.#forgetDistances();
      const table = gpu.keep(sinusoids(gpu, rows, dim));
      found = { table, index: new RelativeIndex(rows, (t) => Math.min(Math.max(t, 0), rows - 1)) };
      this.#distances.set(rows, found);
    }
    return found;
  }

  /** Frees the tables of sinusoids, and the parameters where `init` drew them. */
  override dispose(): void {
    this.#forgetDistances();
    super.dispose();
  }

  #forgetDistances(): void {
    for (const { table, index } of this.#distances.values()) {
      table.dispose();
      index.dispose();
    }
    this.#distances.clear();
  }
}

/** The last `count` rows of two neighbouring pieces of a sequence, [batch, seq, dim]. */
export function lastRows(before: Tensor, after: Tensor, count: number): Tensor {
  const [old, fresh] = [before.shape[1]!, after.shape[1]!];
  if (fresh >= count) return fresh === count ? after : slice(after, { axis: 1, start: fresh - count });
  const kept = Math.min(old, count - fresh);
  return kept === 0 ? after : concat([slice(before, { axis: 1, start: old - kept }), after], 1);
}
