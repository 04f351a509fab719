import {
  add,
  checkConfig,
  concat,
  ConfigError,
  expectInteger,
  expectShape,
  linear,
  matmul,
  RelativeIndex,
  slice,
  stopGradient,
  transpose,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { attention } from "../engine/attention.js";
import type { AttentionOptions } from "../engine/options.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { KVCache } from "../cache/kv_cache.js";
import { checkParameters, initParameters, matrix, type InitOptions, type Plan } from "../parameters.js";
import { sinusoids } from "../block/parts.js";
import type { TokenPositions } from "../cache/slots.js";

export interface TransformerXlAttentionConfig {
  /** Even. */
  readonly dim: number;
  readonly numHeads: number;
  readonly headDim: number;
  /** Distances above are taken as this one in the positional term; 0 (default): no limit. */
  readonly clampLen?: number;
}

/** How a sequence is cut: each segment sees the `memLen` tokens before it and itself. */
export interface SegmentOptions {
  readonly segmentLen: number;
  readonly memLen: number;
}

export interface TransformerXlAttentionOptions {
  /** [batch, M, dim]: hidden states of the M tokens before; no gradient flows into them. */
  readonly memory?: Tensor | undefined;
  /** Cut x into segments, each with the hidden states before it as memory. */
  readonly segments?: SegmentOptions | undefined;
  /** Decoding: projected keys and values of the memory and the segment; see `createCache`. */
  readonly cache?: TransformerXlCache | undefined;
  /** With a cache; default: counted on. */
  readonly positions?: TokenPositions;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

/** A ring of memLen + segmentLen keys and values. */
export interface TransformerXlCache extends SegmentOptions {
  readonly cache: KVCache;
}

/**
 * Transformer-XL's attention: keys and values over c = [memory; x], scores with relative positions. With t = i + M - j
 * the distance, s_ij = headDim^-0.5 [(q_i + u) . k_j + (q_i + v) . (R_t Wr^T)] for t >= 0, R_t = [sin(t f); cos(t f)],
 * f_e = 10000^(-2e / dim); out = merge(softmax(s) v) Wo^T. (q + v) . R_t is computed for every t once and looked up.
 *
 * x [batch, seq, dim]. Parameters q_proj, k_proj, v_proj, r_proj, o_proj (`.weight`), u and v [numHeads, headDim].
 * Dai et al. 2019, arXiv:1901.02860, section 3.
 */
export class TransformerXlAttention implements Module {
  readonly config: TransformerXlAttentionConfig;
  readonly #p: Record<string, Tensor>;
  /** By number of rows; segments of a sequence need a few. */
  readonly #distances: Map<number, { readonly table: Tensor; readonly index: RelativeIndex }> = new Map<
    number,
    { readonly table: Tensor; readonly index: RelativeIndex }
  >();

  /** @throws ConfigError */
  constructor(config: TransformerXlAttentionConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("TransformerXlAttention", TransformerXlAttention.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: TransformerXlAttentionConfig): Plan {
    const who = "TransformerXlAttention";
    checkConfig(who, config, ["dim", "numHeads", "headDim", "clampLen"]);
    const { dim, numHeads, headDim, clampLen = 0 } = config;
    for (const [name, n] of Object.entries({ dim, numHeads, headDim })) expectInteger(who, name, n, 1);
    if (dim % 2 !== 0) throw new ConfigError(who, `dim is ${dim}; it must be even`);
    expectInteger(who, "clampLen", clampLen, 0);
    const inner = numHeads * headDim;
    return {
      "q_proj.weight": matrix(inner, dim),
      "k_proj.weight": matrix(inner, dim),
      "v_proj.weight": matrix(inner, dim),
      "r_proj.weight": matrix(inner, dim),
      "o_proj.weight": matrix(dim, inner),
      u: matrix(numHeads, headDim),
      v: matrix(numHeads, headDim),
    };
  }

  /** Normal matrices and biases u, v. */
  static init(gpu: Gpu, config: TransformerXlAttentionConfig, options: InitOptions): TransformerXlAttention {
    const plan = TransformerXlAttention.plan(config);
    return new TransformerXlAttention(config, initParameters("TransformerXlAttention", gpu, plan, options));
  }

  /** A cache for decoding what `forward` with the same segments gives. */
  createCache(
    gpu: Gpu,
    options: SegmentOptions & {
      readonly batch: number;
      readonly maxLength: number;
      readonly maxChunk?: number;
      readonly dtype?: "f32" | "f16";
    },
  ): TransformerXlCache {
    const { segmentLen, memLen, ...rest } = options;
    expectSegments({ segmentLen, memLen });
    const { numHeads, headDim } = this.config;
    return {
      segmentLen,
      memLen,
      cache: new KVCache(gpu, { ...rest, numKvHeads: numHeads, headDim, window: segmentLen + memLen }),
    };
  }

  forward(x: Tensor, options: TransformerXlAttentionOptions = {}): Tensor {
    const who = "TransformerXlAttention";
    checkConfig(who, options, ["memory", "segments", "cache", "positions", "residual"]);
    const { memory, segments, cache, residual } = options;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", this.config.dim]) as {
      batch: number;
      seq: number;
    };
    if (memory) expectShape(who, "memory", memory, [batch, null, this.config.dim]);
    if ([memory, segments, cache].filter((o) => o !== undefined).length > 1)
      throw new ConfigError(who, "memory, segments and cache exclude each other");
    const project = (o: Tensor): Tensor => mergeHeads(o, this.#p["o_proj.weight"]!, undefined, residual);
    return x.gpu.scope(() => {
      if (cache) return project(this.#decode(x, cache, options.positions));
      if (!segments) return project(this.#attend(x, memory));
      expectSegments(segments);
      const { segmentLen, memLen } = segments;
      const outs: Tensor[] = [];
      for (let start = 0; start < seq; start += segmentLen) {
        const before = Math.max(0, start - memLen);
        outs.push(
          this.#attend(
            slice(x, { axis: 1, start, end: Math.min(seq, start + segmentLen) }),
            before < start ? slice(x, { axis: 1, start: before, end: start }) : undefined,
          ),
        );
      }
      return project(outs.length === 1 ? outs[0]! : concat(outs, 1));
    });
  }

  /** Heads' outputs [batch, seq, numHeads, headDim] over the memory and x. */
  #attend(x: Tensor, memory: Tensor | undefined): Tensor {
    const context = memory && memory.shape[1]! > 0 ? concat([stopGradient(memory), x], 1) : x;
    const [q, k, v] = this.#heads(x, context);
    return this.#scores(q, k, v, context.shape[1]! - 1, {});
  }

  #decode(x: Tensor, { cache, segmentLen, memLen }: TransformerXlCache, given: TokenPositions): Tensor {
    const seq = x.shape[1]!;
    const longest = segmentLen + memLen - 1;
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
      splitHeads(from, this.config.numHeads, this.#p[`${name}.weight`]!);
    return [cut(x, "q_proj"), cut(context, "k_proj"), cut(context, "v_proj")];
  }

  /** Attention whose scores have the relative terms; distances are at most `longest`. */
  #scores(q: Tensor, k: Tensor, v: Tensor, longest: number, options: AttentionOptions): Tensor {
    const { numHeads, headDim } = this.config;
    const p = this.#p;
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
    const { dim, clampLen = 0 } = this.config;
    const rows = (clampLen > 0 ? Math.min(longest, clampLen) : longest) + 1;
    let found = this.#distances.get(rows);
    if (!found) {
      if (this.#distances.size >= 8) this.dispose();
      const table = gpu.keep(sinusoids(gpu, rows, dim));
      found = { table, index: new RelativeIndex(rows, (t) => Math.min(Math.max(t, 0), rows - 1)) };
      this.#distances.set(rows, found);
    }
    return found;
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }

  /** Free the table of sinusoids. */
  dispose(): void {
    for (const { table, index } of this.#distances.values()) {
      table.dispose();
      index.dispose();
    }
    this.#distances.clear();
  }
}

function expectSegments({ segmentLen, memLen }: SegmentOptions): void {
  expectInteger("TransformerXlAttention", "segmentLen", segmentLen, 1);
  expectInteger("TransformerXlAttention", "memLen", memLen, 0);
}
