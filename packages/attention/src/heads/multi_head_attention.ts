import {
  checkConfig,
  ConfigError,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectShape,
  type Gpu,
  type Module,
  type ScoreModifier,
  type Tensor,
} from "@x/kernels";
import { cachedAttention } from "../cache/cached_attention.js";
import { attention } from "../engine/attention.js";
import type { AttentionOptions } from "../engine/options.js";
import { mergeHeads, splitHeads } from "./heads.js";
import { hideRows } from "../block/hidden_rows.js";
import { KVCache, type KVCacheConfig } from "../cache/kv_cache.js";
import {
  checkParameters,
  initParameters,
  matrix,
  zeros,
  type InitOptions,
  type ParameterPlan,
  type Plan,
} from "../parameters.js";
import type { TokenPositions } from "../cache/slots.js";

export interface MultiHeadAttentionConfig {
  /** Width of x and of the output. */
  readonly dim: number;
  /** Cross-attention: width of the context; default dim. */
  readonly contextDim?: number;
  readonly numHeads: number;
  /** Default numHeads; fewer is GQA, 1 is MQA. */
  readonly numKvHeads?: number;
  /** Default dim / numHeads. */
  readonly headDim?: number;
  /** Default false. */
  readonly causal?: boolean;
  /** Biases of all four projections; default false. */
  readonly bias?: boolean;
  /** Factor of q.k; default headDim^-0.5. */
  readonly scale?: number;
  /** Cap of the scores (Gemma 2); 0: off. */
  readonly softcap?: number;
  /** Keys that a query sees, the own one included. */
  readonly window?: number | undefined;
  /** A trained logit per head in the denominator, without a value. */
  readonly sinks?: boolean;
}

/** Where the tokens of a call stand, for a positional encoding. */
export interface PositionContext {
  /** Position of the first query, when rows are counted. */
  readonly queryOffset: number;
  /** i32 [batch, seq], when positions come from a cache. */
  readonly positionIds: Tensor | undefined;
  /** Tokens of the whole text, what the cache holds and what is new: frequencies may depend on it. */
  readonly seqLen: number;
  /** All positions are below it, in this call and in later ones with the same cache: rows that a table needs. */
  readonly maxPositions: number;
}

/** What a position or a norm does to queries and keys [batch, seq, heads, headDim] ("bshd"). */
export interface AttentionHooks {
  /** QK-norm, before positions. */
  readonly queryNorm?: ((q: Tensor) => Tensor) | undefined;
  readonly keyNorm?: ((k: Tensor) => Tensor) | undefined;
  /** Turn queries and keys, or give score modifiers. */
  readonly position?:
    | ((
        q: Tensor,
        k: Tensor,
        context: PositionContext,
      ) => { q: Tensor; k: Tensor; modifiers?: readonly ScoreModifier[] })
    | undefined;
  /**
   * Whether `position` turns the tokens of a text of `to` tokens otherwise than those of one of `from` tokens
   * (`RotaryEmbedding.changes`), so that keys in a cache become stale; default: never.
   */
  readonly changes?: ((from: number, to: number) => boolean) | undefined;
  readonly pattern?: AttentionOptions["pattern"];
}

export interface MultiHeadAttentionOptions {
  /** Cross-attention: the context [batch, keys, contextDim], or its keys and values from `contextCache`. */
  readonly context?: Tensor | ContextCache | undefined;
  /** i32 [batch, keys]: 1 keeps; with a cache [batch, seq]. */
  readonly keyMask?: Tensor | undefined;
  /** i32 [batch, seq]: packed documents. */
  readonly docs?: Tensor | undefined;
  readonly cache?: KVCache | undefined;
  /** With a cache; default: counted on. */
  readonly positions?: TokenPositions;
  /**
   * With a cache: tokens of the whole text that the call belongs to; default: counted. Needed where positions are on
   * the device and the hooks' `changes` depends on it.
   */
  readonly textLength?: number | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

/** Keys and values of a context, [batch, keys, kvHeads, headDim], computed once for all decoding steps. */
export interface ContextCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  /** i32 [batch, keys] */
  readonly keyMask: Tensor | undefined;
  dispose(): void;
}

const KEYS = [
  "dim",
  "contextDim",
  "numHeads",
  "numKvHeads",
  "headDim",
  "causal",
  "bias",
  "scale",
  "softcap",
  "window",
  "sinks",
];

/**
 * Attention between projections: q = split(x Wq^T + bq), k, v = split(c Wk^T + bk), split(c Wv^T + bv), c the context
 * or x itself; out = merge(softmax(scale q k^T) v) Wo^T + bo. Fewer key heads than query heads are GQA and MQA. A
 * context whose keys are all masked gives bo.
 *
 * x [batch, seq, dim]. Parameters q_proj, k_proj, v_proj, o_proj (`.weight` [out, in], `.bias`), `sinks` [heads].
 * Vaswani et al. 2017, arXiv:1706.03762, section 3.2; arXiv:1911.02150 (MQA); arXiv:2305.13245 (GQA).
 */
export class MultiHeadAttention implements Module {
  readonly config: MultiHeadAttentionConfig;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly #p: Record<string, Tensor>;
  readonly #hooks: AttentionHooks;

  /** @throws ConfigError */
  constructor(
    config: MultiHeadAttentionConfig,
    parameters: Readonly<Record<string, Tensor>>,
    hooks: AttentionHooks = {},
  ) {
    const who = "MultiHeadAttention";
    this.#p = checkParameters(who, MultiHeadAttention.plan(config), parameters);
    checkConfig(who, hooks, ["queryNorm", "keyNorm", "position", "changes", "pattern"]);
    this.config = config;
    this.numKvHeads = config.numKvHeads ?? config.numHeads;
    this.headDim = config.headDim ?? config.dim / config.numHeads;
    this.#hooks = hooks;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: MultiHeadAttentionConfig): Plan {
    const who = "MultiHeadAttention";
    checkConfig(who, config, KEYS);
    const { dim, contextDim = dim, numHeads, numKvHeads = numHeads } = config;
    const { causal = false, bias = false, scale, softcap = 0, window, sinks = false } = config;
    for (const [name, n] of Object.entries({ dim, contextDim, numHeads, numKvHeads }))
      expectInteger(who, name, n, 1);
    for (const [name, flag] of Object.entries({ causal, bias, sinks })) expectBoolean(who, name, flag);
    const headDim = config.headDim ?? dim / numHeads;
    expectInteger(who, "headDim", headDim, 1);
    if (numHeads % numKvHeads !== 0)
      throw new ConfigError(
        who,
        `numHeads is ${numHeads}, numKvHeads ${numKvHeads}; the first must be a multiple of the second`,
      );
    if (scale !== undefined) expectNumber(who, "scale", scale);
    expectNumber(who, "softcap", softcap, 0);
    if (window !== undefined) expectInteger(who, "window", window, 1);
    const projection = (name: string, out: number, into: number): Record<string, ParameterPlan> => ({
      [`${name}.weight`]: matrix(out, into),
      ...(bias ? { [`${name}.bias`]: zeros(out) } : {}),
    });
    return {
      ...projection("q_proj", numHeads * headDim, dim),
      ...projection("k_proj", numKvHeads * headDim, contextDim),
      ...projection("v_proj", numKvHeads * headDim, contextDim),
      ...projection("o_proj", dim, numHeads * headDim),
      ...(sinks ? { sinks: zeros(numHeads) } : {}),
    };
  }

  /** Normal matrices, zero biases. */
  static init(
    gpu: Gpu,
    config: MultiHeadAttentionConfig,
    options: InitOptions,
    hooks: AttentionHooks = {},
  ): MultiHeadAttention {
    const plan = MultiHeadAttention.plan(config);
    return new MultiHeadAttention(config, initParameters("MultiHeadAttention", gpu, plan, options), hooks);
  }

  /** A cache for decoding: full, or a ring where the configuration has a window. */
  createCache(gpu: Gpu, options: Pick<KVCacheConfig, "batch" | "maxLength" | "maxChunk" | "dtype">): KVCache {
    const { numKvHeads, headDim } = this;
    return new KVCache(gpu, { ...options, numKvHeads, headDim, window: this.config.window });
  }

  /** Keys and values of a context, for any number of calls. */
  contextCache(context: Tensor, keyMask?: Tensor): ContextCache {
    const who = "MultiHeadAttention.contextCache";
    expectShape(who, "context", context, [null, null, this.#contextDim]);
    const { keys, values } = context.gpu.scope(() => this.#keysAndValues(hideRows(who, context, keyMask)));
    return {
      keys,
      values,
      keyMask,
      dispose: () => {
        keys.dispose();
        values.dispose();
      },
    };
  }

  get #contextDim(): number {
    return this.config.contextDim ?? this.config.dim;
  }

  #keysAndValues(source: Tensor): { keys: Tensor; values: Tensor } {
    const cut = (name: string): Tensor =>
      splitHeads(source, this.numKvHeads, this.#p[`${name}.weight`]!, this.#p[`${name}.bias`]);
    const keys = cut("k_proj");
    return { keys: this.#hooks.keyNorm?.(keys) ?? keys, values: cut("v_proj") };
  }

  forward(x: Tensor, options: MultiHeadAttentionOptions = {}): Tensor {
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /** The output, and the keys and values [batch, keys, kvHeads, headDim] as they would be cached. */
  outputs(x: Tensor, options: MultiHeadAttentionOptions = {}): { out: Tensor; keys: Tensor; values: Tensor } {
    const who = "MultiHeadAttention";
    checkConfig(who, options, ["context", "keyMask", "docs", "cache", "positions", "textLength", "residual"]);
    const { context, keyMask, docs, cache, residual } = options;
    const { dim, numHeads, causal = false, scale, softcap = 0, window } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    if (context && cache) throw new ConfigError(who, "context and cache are given; use contextCache");
    for (const name of ["positions", "textLength"] as const)
      if (options[name] !== undefined && !cache)
        throw new ConfigError(who, `${name} is given without a cache; rows are then counted from 0`);
    if (cache && !causal) throw new ConfigError(who, "a cache is given; causal must be true");
    const first = cache?.length;
    if (cache && docs && (options.positions !== undefined || first === undefined))
      throw new ConfigError(who, "docs are given; with a cache their tokens must be counted on, not placed");
    const p = this.#p;
    return x.gpu.scope(() => {
      const ids = cache?.place(seq, options.positions, {
        textLength: options.textLength,
        changes: this.#hooks.changes,
      });
      let q = splitHeads(x, numHeads, p["q_proj.weight"]!, p["q_proj.bias"]);
      let keys: Tensor;
      let values: Tensor;
      if (this.#hooks.queryNorm) q = this.#hooks.queryNorm(q);
      if (context && "keys" in context) ({ keys, values } = context);
      else {
        if (context) expectShape(who, "context", context, [batch, null, this.#contextDim]);
        else if (this.#contextDim !== dim)
          throw new ConfigError(who, `context is missing; contextDim is ${this.#contextDim}, dim ${dim}`);
        ({ keys, values } = this.#keysAndValues(context ? hideRows(who, context, keyMask) : x));
      }
      let modifiers: readonly ScoreModifier[] | undefined;
      if (this.#hooks.position && !context) {
        const where = {
          queryOffset: 0,
          positionIds: ids,
          seqLen: cache?.textLength ?? seq,
          maxPositions: cache?.config.maxLength ?? seq,
        };
        ({ q, k: keys, modifiers } = this.#hooks.position(q, keys, where));
      }
      const common = {
        causal,
        softcap,
        ...(scale === undefined ? {} : { scale }),
        ...(window === undefined ? {} : { window: { left: window - 1, right: causal ? 0 : window - 1 } }),
        ...(modifiers ? { modifiers } : {}),
        ...(this.#hooks.pattern ? { pattern: this.#hooks.pattern } : {}),
        sinks: p["sinks"],
      } satisfies AttentionOptions;
      const cached = context && "keys" in context ? context.keyMask : undefined;
      const o = cache
        ? cachedAttention(q, keys, values, cache, {
            ...common,
            positions: ids,
            keyMask,
            ...(docs && first !== undefined ? { docs: { ids: docs, first } } : {}),
            ...(modifiers?.some((m) => m.kind === "relative")
              ? { distances: { min: 0, max: cache.config.maxLength - 1 } }
              : {}),
          })
        : attention(q, keys, values, { ...common, layout: "bshd", keyMask: keyMask ?? cached, docs });
      return { out: mergeHeads(o, p["o_proj.weight"]!, p["o_proj.bias"], residual), keys, values };
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
