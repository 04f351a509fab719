import {
  checkConfig,
  ConfigError,
  expectInteger,
  expectNumber,
  expectShape,
  slice,
  subParameters,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import {
  block,
  blockContext,
  blockPlan,
  checkBlockConfig,
  expectLayers,
  expectTokens,
  feedForward,
  feedForwardPlan,
  layersPlan,
  type Attend,
  type BlockConfig,
  type BlockContext,
} from "../block/block.js";
import { cachedAttention } from "../cache/cached_attention.js";
import { attention } from "../engine/attention.js";
import type { AttentionPositions } from "../engine/options.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { KVCache } from "../cache/kv_cache.js";
import { checkParameters, initParameters, matrix, ones, type InitOptions, type Plan } from "../parameters.js";
import { PlainRope, type Parts, type Rope } from "../block/parts.js";
import type { TokenPositions } from "../cache/slots.js";

export interface YocoConfig extends BlockConfig {
  /** Key and value heads of the upper half; default numHeads. */
  readonly numKvHeads?: number;
  readonly selfLayers: number;
  readonly crossLayers: number;
  /** Keys that a token of the lower half sees, its own included. */
  readonly window: number;
  /** Default 10000. */
  readonly ropeBase?: number;
}

export interface YocoCacheOptions {
  readonly batch: number;
  readonly maxLength: number;
  /** Most tokens that the lower half takes at a time; default 64. */
  readonly maxChunk?: number;
  readonly dtype?: "f32" | "f16";
}

/** A ring of window - 1 tokens for each lower layer, and one set of keys and values for all upper layers. */
export class YocoCache {
  readonly layers: readonly KVCache[];
  readonly shared: KVCache;

  constructor(layers: readonly KVCache[], shared: KVCache) {
    this.layers = layers;
    this.shared = shared;
  }

  /** Bytes by which one token makes the cache grow: the shared keys and values; the rings have a fixed size. */
  get bytesPerToken(): number {
    return this.shared.bytesPerToken;
  }

  get length(): number | undefined {
    return this.shared.length;
  }

  clear(): void {
    for (const cache of [...this.layers, this.shared]) cache.clear();
  }

  dispose(): void {
    for (const cache of [...this.layers, this.shared]) cache.dispose();
  }
}

export interface YocoOptions {
  readonly cache?: YocoCache | undefined;
  /** With a cache; default: counted on. */
  readonly positions?: TokenPositions;
  /**
   * With a cache: tokens of the whole text that the call belongs to; default: counted. Needed where positions are on
   * the device and the rotation depends on it.
   */
  readonly textLength?: number | undefined;
  /** First row to give out: the upper half does not run on the rows before. Default 0. */
  readonly from?: number;
}

export interface YocoOutputs {
  /** [batch, seq - from, dim] */
  readonly out: Tensor;
  /** Of the tokens of this call, [batch, seq, numKvHeads, headDim]. */
  readonly keys: Tensor;
  readonly values: Tensor;
}

/**
 * You only cache once: a lower half of sliding-window blocks gives h; K = rope(split(RMSNorm(h) Wk^T)) and V are
 * computed once and every layer of the upper half attends to them: z += merge(sdpa_causal(rope(q), K, V)) Wo^T,
 * z += FFN(z), z = h at first; out = RMSNorm(z). A prompt runs through the lower half only.
 *
 * x [batch, seq, dim]. Parameters self_decoder.<l>.*, kv_layer_norm, k_proj, v_proj, cross_decoder.<l>.*, norm.
 * Sun et al. 2024, arXiv:2405.05254, sections 2 and 3 (sliding-window form).
 */
export class Yoco implements Module {
  readonly config: YocoConfig;
  readonly #p: Record<string, Tensor>;
  readonly #rope: Rope;
  readonly #ownsRope: boolean;
  readonly #block: BlockContext;
  readonly #lower: readonly Record<string, Tensor>[];
  readonly #upper: readonly Record<string, Tensor>[];

  /** @throws ConfigError */
  constructor(gpu: Gpu, config: YocoConfig, parameters: Readonly<Record<string, Tensor>>, parts: Parts = {}) {
    this.#p = checkParameters("Yoco", Yoco.plan(config), parameters);
    this.#block = blockContext(config, parts);
    this.config = config;
    const layers = (name: string, n: number): Record<string, Tensor>[] =>
      Array.from({ length: n }, (_, l) => subParameters(this.#p, `${name}.${l}`));
    this.#lower = layers("self_decoder", config.selfLayers);
    this.#upper = layers("cross_decoder", config.crossLayers);
    this.#rope = parts.rope ?? new PlainRope(gpu, config.headDim, config.ropeBase ?? 10000);
    this.#ownsRope = parts.rope === undefined;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: YocoConfig): Plan {
    const who = "Yoco";
    checkBlockConfig(who, config, ["numKvHeads", "selfLayers", "crossLayers", "window", "ropeBase"]);
    const { dim, numHeads, numKvHeads = numHeads, headDim, selfLayers, crossLayers, window } = config;
    expectLayers(who, { numKvHeads, selfLayers, crossLayers, window });
    if (headDim % 2 !== 0) throw new ConfigError(who, `headDim is ${headDim}; it must be even to rotate`);
    if (numHeads % numKvHeads !== 0)
      throw new ConfigError(
        who,
        `numHeads is ${numHeads}; it must be a multiple of numKvHeads, ${numKvHeads}`,
      );
    if (config.ropeBase !== undefined) expectNumber(who, "ropeBase", config.ropeBase, Number.MIN_VALUE);
    const cross: Plan = {
      "input_layernorm.weight": ones(dim),
      "cross_attn.q_proj.weight": matrix(numHeads * headDim, dim),
      "cross_attn.o_proj.weight": matrix(dim, numHeads * headDim),
      ...feedForwardPlan(config),
    };
    return {
      ...layersPlan("self_decoder", selfLayers, blockPlan(config)),
      "kv_layer_norm.weight": ones(dim),
      "k_proj.weight": matrix(numKvHeads * headDim, dim),
      "v_proj.weight": matrix(numKvHeads * headDim, dim),
      ...layersPlan("cross_decoder", crossLayers, cross),
      "norm.weight": ones(dim),
    };
  }

  /** Normal matrices, norms of ones. */
  static init(gpu: Gpu, config: YocoConfig, options: InitOptions, parts: Parts = {}): Yoco {
    return new Yoco(gpu, config, initParameters("Yoco", gpu, Yoco.plan(config), options), parts);
  }

  createCache(gpu: Gpu, options: YocoCacheOptions): YocoCache {
    checkConfig("Yoco.createCache", options, ["batch", "maxLength", "maxChunk", "dtype"]);
    const { numHeads, numKvHeads = numHeads, headDim, window } = this.config;
    const ring = (): KVCache => new KVCache(gpu, { ...options, numKvHeads: numHeads, headDim, window });
    return new YocoCache(this.#lower.map(ring), new KVCache(gpu, { ...options, numKvHeads, headDim }));
  }

  forward(x: Tensor, options: YocoOptions = {}): Tensor {
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /** Fill the cache with a prompt and give the last row, [batch, 1, dim]: the upper half runs on that row alone. */
  prefill(x: Tensor, cache: YocoCache): Tensor {
    return this.forward(x, { cache, from: x.shape[1]! - 1 });
  }

  /** The output, and the keys and values that the upper half shares. */
  outputs(x: Tensor, options: YocoOptions = {}): YocoOutputs {
    const who = "Yoco";
    checkConfig(who, options, ["cache", "positions", "textLength", "from"]);
    const { cache, from = 0 } = options;
    const { dim, numHeads, numKvHeads = numHeads } = this.config;
    const { seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { seq: number };
    expectTokens(who, seq);
    expectInteger(who, "from", from, 0, seq - 1);
    for (const name of ["positions", "textLength"] as const)
      if (options[name] !== undefined && !cache)
        throw new ConfigError(who, `${name} is given without a cache; rows are then counted from 0`);
    const p = this.#p;
    const { norm } = this.#block;
    return x.gpu.scope(() => {
      const ids = cache?.shared.place(seq, options.positions, {
        textLength: options.textLength,
        changes: (from, to) => this.#rope.changes?.(from, to) ?? false,
      });
      const turn = (t: Tensor, first = 0): Tensor =>
        this.#rope.apply(t, {
          layout: "bshd",
          seqLen: cache?.shared.textLength ?? seq,
          ...(ids && cache
            ? {
                positionIds: first === 0 ? ids : slice(ids, { axis: 1, start: first }),
                maxPositions: cache.shared.config.maxLength,
              }
            : { positionOffset: first }),
        });
      const h = this.#lowerHalf(x, turn, cache, ids);
      const g = norm(h, p["kv_layer_norm.weight"]!);
      const keys = turn(splitHeads(g, numKvHeads, p["k_proj.weight"]!));
      const values = splitHeads(g, numKvHeads, p["v_proj.weight"]!);
      const where = cache?.shared.append(keys, values, ids);
      const [k, v] = cache ? [cache.shared.keys, cache.shared.values] : [keys, values];
      let z = from === 0 ? h : slice(h, { axis: 1, start: from });
      const positions: AttentionPositions | undefined =
        where && (from === 0 ? where : { ...where, query: slice(where.query, { axis: 1, start: from }) });
      for (const layer of this.#upper) {
        const before = z;
        z = z.gpu.scope(() => {
          const a = norm(before, layer["input_layernorm.weight"]!);
          const q = turn(splitHeads(a, numHeads, layer["cross_attn.q_proj.weight"]!), from);
          const o = attention(q, k, v, {
            causal: true,
            layout: "bshd",
            ...(positions ? { positions } : {}),
          });
          return feedForward(
            mergeHeads(o, layer["cross_attn.o_proj.weight"]!, undefined, before),
            layer,
            this.#block,
          );
        });
      }
      return { out: norm(z, p["norm.weight"]!), keys, values };
    });
  }

  #lowerHalf(
    x: Tensor,
    turn: (t: Tensor) => Tensor,
    cache: YocoCache | undefined,
    ids: Tensor | undefined,
  ): Tensor {
    const { window } = this.config;
    let h = x;
    this.#lower.forEach((layer, l) => {
      const attend: Attend = (q, k, v) =>
        cache
          ? cachedAttention(turn(q), turn(k), v, cache.layers[l]!, { positions: ids })
          : attention(turn(q), turn(k), v, {
              causal: true,
              layout: "bshd",
              window: { left: window - 1, right: 0 },
            });
      h = block(h, layer, this.#block, attend);
    });
    return h;
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }

  /** Free the rotation's tables. */
  dispose(): void {
    if (this.#ownsRope) this.#rope.dispose?.();
  }
}
