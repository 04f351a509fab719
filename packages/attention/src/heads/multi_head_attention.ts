import {
  boolean,
  Component,
  ConfigError,
  expectInteger,
  expectShape,
  expectTensor,
  integer,
  matrix,
  number,
  schema,
  tensor,
  Tensor,
  value,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type PlannedParameter,
  type ScoreModifier,
  type Stateful,
} from "@x/kernels";
import { cachedAttention } from "../cache/cached_attention.js";
import { attention } from "../engine/attention.js";
import type { AttentionOptions } from "../engine/options.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { hideRows } from "../block/hidden_rows.js";
import { KVCache } from "../cache/kv_cache.js";
import { POSITION_FIELDS, STATE_FIELDS } from "../cache/fields.js";

const MULTI_HEAD_ATTENTION = schema("MultiHeadAttention", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  contextDim: integer("Cross-attention: width of the context.", { min: 1, defaultDoc: "dim" }),
  numHeads: integer("Heads of the queries.", { min: 1 }),
  numKvHeads: integer("Heads of keys and values: fewer is GQA, 1 is MQA.", {
    min: 1,
    defaultDoc: "numHeads",
  }),
  headDim: integer("Features of a head.", { min: 1, defaultDoc: "dim / numHeads" }),
  causal: boolean("A query sees keys up to its own position.", { default: false }),
  bias: boolean("Biases of all four projections.", { default: false }),
  scale: number("Factor of q.k.", { defaultDoc: "headDim^-0.5" }),
  softcap: number("Cap of the scores (Gemma 2); 0: none.", { min: 0, default: 0 }),
  window: integer("Keys that a query sees, its own included.", { min: 1, defaultDoc: "all" }),
  sinks: boolean("A trained logit per head in the denominator, without a value.", { default: false }),
});
export type MultiHeadAttentionConfig = Config<typeof MULTI_HEAD_ATTENTION>;

/** Where the tokens of a call stand, for a positional encoding. */
export interface PositionContext {
  /** Position of the first query, when rows are counted. */
  readonly queryOffset: number;
  /** i32 [batch, seq], with a state. */
  readonly positionIds: Tensor | undefined;
  /** Tokens of the whole text, what the state holds and what is new: frequencies may depend on it. */
  readonly seqLen: number;
  /** All positions are below it, in this call and in later ones with the same state: rows that a table needs. */
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

/** Keys and values of a context, [batch, keys, kvHeads, headDim], computed once for all decoding steps. */
export interface ContextCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  /** i32 [batch, keys] */
  readonly keyMask: Tensor | undefined;
  dispose(): void;
}

const isFunction = (given: unknown): given is (...args: never[]) => unknown => typeof given === "function";
const isObject = (given: unknown): given is object => typeof given === "object" && given !== null;
const isContextCache = (given: unknown): given is ContextCache =>
  isObject(given) &&
  Tensor.isInstance(Reflect.get(given, "keys")) &&
  Tensor.isInstance(Reflect.get(given, "values"));

const HOOKS = schema("MultiHeadAttention: hooks", {
  queryNorm: value("Norm of the queries.", "a function", isFunction, { optional: true }),
  keyNorm: value("Norm of the keys.", "a function", isFunction, { optional: true }),
  position: value("Encoding of positions.", "a function", isFunction, { optional: true }),
  changes: value("Whether the encoding depends on the length.", "a function", isFunction, { optional: true }),
  pattern: value("Which keys a query sees.", "a pattern", isObject, { optional: true }),
});

const OPTIONS = schema("MultiHeadAttention.forward", {
  context: value(
    "Cross-attention: the context [batch, keys, contextDim], or its keys and values from `contextCache`.",
    "a tensor, or what contextCache returns",
    (given: unknown): given is Tensor | ContextCache => Tensor.isInstance(given) || isContextCache(given),
    { optional: true },
  ),
  keyMask: tensor("i32 [batch, keys]: 1 keeps; with a state [batch, seq].", { optional: true }),
  docs: tensor("i32 [batch, seq]: packed documents.", { optional: true }),
  state: value(
    "Keys and values of the tokens so far, which the call adds to.",
    "a KVCache",
    (given: unknown): given is KVCache => given instanceof KVCache,
    { optional: true },
  ),
  ...POSITION_FIELDS,
  residual: tensor("Added to the output.", { optional: true }),
});
export type MultiHeadAttentionOptions = Config<typeof OPTIONS>;

const STATE = schema("MultiHeadAttention.createState", {
  ...STATE_FIELDS,
  maxChunk: integer("With a window: most tokens of one call.", { min: 1, default: 64 }),
});
const CONTEXT = schema("MultiHeadAttention.contextCache", {
  keyMask: tensor("i32 [batch, keys]: 1 keeps.", { optional: true }),
});

/**
 * Attention between projections: q = split(x Wq^T + bq), k, v = split(c Wk^T + bk), split(c Wv^T + bv), c the context
 * or x itself; out = merge(softmax(scale q k^T) v) Wo^T + bo. Fewer key heads than query heads are GQA and MQA. A
 * context whose keys are all masked gives bo.
 *
 * x [batch, seq, dim], f32 or f16. Parameters q_proj, k_proj, v_proj, o_proj (`.weight` [out, in], initially normal;
 * `.bias`, initially zeros), `sinks` [heads], initially zeros.
 * Vaswani et al. 2017, arXiv:1706.03762, section 3.2; arXiv:1911.02150 (MQA); arXiv:2305.13245 (GQA).
 */
export class MultiHeadAttention extends Component<typeof MULTI_HEAD_ATTENTION> implements Stateful<KVCache> {
  static readonly schema = MULTI_HEAD_ATTENTION;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly #hooks: AttentionHooks;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: MultiHeadAttentionConfig, parameters: Parameters, hooks: AttentionHooks = {}) {
    super(MULTI_HEAD_ATTENTION, config, MultiHeadAttention.plan(config), parameters);
    HOOKS.read(hooks);
    const { dim, numHeads, numKvHeads = numHeads, headDim = dim / numHeads } = this.config;
    this.numKvHeads = numKvHeads;
    this.headDim = headDim;
    this.#hooks = hooks;
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: MultiHeadAttentionConfig): ParameterPlan {
    const { name: who } = MULTI_HEAD_ATTENTION;
    const {
      dim,
      contextDim = dim,
      numHeads,
      numKvHeads = numHeads,
      headDim = dim / numHeads,
      bias,
      sinks,
    } = MULTI_HEAD_ATTENTION.read(config);
    expectInteger(who, "headDim", headDim, 1);
    if (numHeads % numKvHeads !== 0)
      throw new ConfigError(
        who,
        `numHeads is ${numHeads}, numKvHeads ${numKvHeads}; the first must be a multiple of the second`,
      );
    const projection = (
      name: string,
      out: number,
      into: number,
      role?: PlannedParameter["role"],
    ): ParameterPlan => ({
      [`${name}.weight`]: matrix(out, into, role),
      ...(bias ? { [`${name}.bias`]: zeros(out) } : {}),
    });
    return {
      ...projection("q_proj", numHeads * headDim, dim),
      ...projection("k_proj", numKvHeads * headDim, contextDim),
      ...projection("v_proj", numKvHeads * headDim, contextDim, "value"),
      ...projection("o_proj", dim, numHeads * headDim, "output"),
      ...(sinks ? { sinks: zeros(numHeads) } : {}),
    };
  }

  /** An empty state for decoding: of all tokens, or a ring where the configuration has a window. @throws ConfigError */
  createState(options: Config<typeof STATE>): KVCache {
    const { gpu } = this.weights["q_proj.weight"]!;
    const { numKvHeads, headDim } = this;
    return new KVCache(gpu, { ...STATE.read(options), numKvHeads, headDim, window: this.config.window });
  }

  /**
   * Keys and values of a context [batch, keys, contextDim], for any number of calls.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  contextCache(context: Tensor, options: Config<typeof CONTEXT> = {}): ContextCache {
    const { keyMask } = CONTEXT.read(options);
    const { name: who } = CONTEXT;
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
      splitHeads(source, this.numKvHeads, this.weights[`${name}.weight`]!, this.weights[`${name}.bias`]);
    const keys = cut("k_proj");
    return { keys: this.#hooks.keyNorm?.(keys) ?? keys, values: cut("v_proj") };
  }

  /** x [batch, seq, dim]; returns the same shape and dtype. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: MultiHeadAttentionOptions = {}): Tensor {
    expectTensor(MULTI_HEAD_ATTENTION.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /**
   * The output, and the keys and values [batch, keys, kvHeads, headDim] as a state stores them.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  outputs(x: Tensor, options: MultiHeadAttentionOptions = {}): { out: Tensor; keys: Tensor; values: Tensor } {
    const { name: who } = MULTI_HEAD_ATTENTION;
    const { context, keyMask, docs, state, positions, textLength, residual } = OPTIONS.read(options, who);
    const { dim, numHeads, causal, scale, softcap, window } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    if (residual) expectShape(who, "residual", residual, x.shape);
    if (context && state) throw new ConfigError(who, "context and state are given; use contextCache");
    for (const [name, given] of Object.entries({ positions, textLength }))
      if (given !== undefined && !state)
        throw new ConfigError(who, `${name} is given without a state; rows are then counted from 0`);
    if (state && !causal) throw new ConfigError(who, "a state is given; causal must be true");
    const first = state?.length;
    if (state && docs && (positions !== undefined || first === undefined))
      throw new ConfigError(who, "docs are given; with a state their tokens must be counted on, not placed");
    const p = this.weights;
    return x.gpu.scope(() => {
      const ids = state?.place(seq, positions, { textLength, changes: this.#hooks.changes });
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
          seqLen: state?.textLength ?? seq,
          maxPositions: state?.config.maxLength ?? seq,
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
      const o = state
        ? cachedAttention(q, keys, values, state, {
            ...common,
            positions: ids,
            keyMask,
            ...(docs && first !== undefined ? { docs: { ids: docs, first } } : {}),
            ...(modifiers?.some((m) => m.kind === "relative")
              ? { distances: { min: 0, max: state.config.maxLength - 1 } }
              : {}),
          })
        : attention(q, keys, values, { ...common, layout: "bshd", keyMask: keyMask ?? cached, docs });
      return { out: mergeHeads(o, p["o_proj.weight"]!, p["o_proj.bias"], residual), keys, values };
    });
  }
}
