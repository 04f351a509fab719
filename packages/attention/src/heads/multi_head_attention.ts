import {
  boolean,
  Component,
  ConfigError,
  e,
  elementwise,
  expectShape,
  expectTensor,
  integer,
  matrix,
  number,
  oneOf,
  schema,
  tensor,
  Tensor,
  value,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type PlannedParameter,
  type Stateful,
} from "@x/kernels";
import { attendCached } from "../cache/cached_attention.js";
import { attention, attentionOutputs } from "../engine/attention.js";
import type { AttentionOptions, MaskFunction } from "../engine/options.js";
import { expectGroups, headDimOf, mergeHeads, splitHeads } from "../block/heads.js";
import { hideRows } from "../block/hidden_rows.js";
import { KVCache } from "../cache/kv_cache.js";
import { POSITION_FIELDS, STATE_FIELDS } from "../cache/fields.js";
import { pattern, windowOf, type Pattern, type PatternConfig } from "../patterns/index.js";
import { PARTS, rotaryOptions, type PositionContext } from "./parts.js";

type AnyPattern = Pattern | PatternConfig | MaskFunction;

const isObject = (given: unknown): given is object => typeof given === "object" && given !== null;
const isPattern = (given: unknown): given is AnyPattern =>
  isObject(given) && ["kind", "config", "wgsl"].some((key) => key in given);

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
  qkvBias: boolean("Biases of q_proj, k_proj and v_proj, and of gate_proj.", { default: false }),
  outBias: boolean("Bias of o_proj.", { default: false }),
  qkvClip: number("Bound of the absolute values of q, k and v after their projection (MPT's clip_qkv).", {
    min: Number.MIN_VALUE,
    defaultDoc: "none",
  }),
  outputGate: oneOf(
    "Gate on the heads before o_proj: one for each feature of each head (Qwen3-Next), or one for each head.",
    ["none", "element", "head"],
    { default: "none" },
  ),
  scale: number("Factor of q.k.", { defaultDoc: "that of q_norm, else headDim^-0.5" }),
  softcap: number("Cap of the scores (Gemma 2); 0: none.", { min: 0, default: 0 }),
  window: integer("Keys that a query sees, its own included.", { min: 1, defaultDoc: "all" }),
  pattern: value("Keys that a query sees, besides causal and window.", "a pattern", isPattern, {
    optional: true,
  }),
  sinks: boolean("A trained logit per head in the denominator, without a value (GPT-OSS).", {
    default: false,
  }),
});
export type MultiHeadAttentionConfig = Config<typeof MULTI_HEAD_ATTENTION>;
/** Components that the attention calls, under the names that checkpoints give their parameters. */
export type AttentionParts = Config<typeof PARTS>;

/** Keys and values of a context, [batch, keys, kvHeads, headDim], computed once for all decoding steps. */
export interface ContextCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  /** i32 [batch, keys] */
  readonly keyMask: Tensor | undefined;
  dispose(): void;
}

const isContextCache = (given: unknown): given is ContextCache =>
  isObject(given) &&
  Tensor.isInstance(Reflect.get(given, "keys")) &&
  Tensor.isInstance(Reflect.get(given, "values"));

const NORM_FIELDS = {
  normOptions: value("Given to the norms' forward passes.", "an object", isObject, { optional: true }),
};

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
  ...NORM_FIELDS,
});
export type MultiHeadAttentionOptions = Config<typeof OPTIONS>;

const STATE = schema("MultiHeadAttention.createState", {
  ...STATE_FIELDS,
  maxChunk: integer("With a window: most tokens of one call.", { min: 1, default: 64 }),
});
const CONTEXT = schema("MultiHeadAttention.contextCache", {
  keyMask: tensor("i32 [batch, keys]: 1 keeps.", { optional: true }),
  ...NORM_FIELDS,
});

const clipped = elementwise("clipped", ["x", "limit"], (x, limit) => e.max(e.min(x, limit), e.neg(limit)));
const gated = elementwise("gatedHeads", ["o", "gate"], (o, gate) => e.mul(o, e.sigmoid(gate)));

/** Sizes that other keys imply. @throws ConfigError */
function sizesOf(config: MultiHeadAttentionConfig): {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly contextDim: number;
} {
  const { name: who } = MULTI_HEAD_ATTENTION;
  const { dim, contextDim = dim, numHeads, numKvHeads = numHeads } = config;
  const headDim = headDimOf(who, config);
  expectGroups(who, numHeads, numKvHeads);
  return { numKvHeads, headDim, contextDim };
}

/**
 * The keys that each query sees: a causal pattern that is a window becomes one, since its cache is then a ring.
 *
 * @throws ConfigError
 */
function sightOf({ causal, window, pattern: given }: MultiHeadAttentionConfig): {
  readonly window: number | undefined;
  readonly pattern: Pattern | MaskFunction | undefined;
} {
  if (given === undefined || "wgsl" in given) return { window, pattern: given };
  const rule = pattern(given);
  const left = causal ? windowOf(rule)?.window?.left : undefined;
  if (left === undefined || left < 0) return { window, pattern: rule };
  return { window: Math.min(window ?? Infinity, left + 1), pattern: undefined };
}

/**
 * Attention between projections: q = split(x Wq^T + bq), k, v = split(c Wk^T + bk), split(c Wv^T + bv), c the context
 * or x itself; out = merge(softmax(scale q k^T) v) Wo^T + bo. Fewer key heads than query heads are GQA and MQA. A
 * context whose keys are all masked gives bo.
 *
 * In order: q, k and v are clipped (`qkvClip`); `q_norm` and `k_norm` norm queries and keys; `rope` and `position`
 * encode positions in self-attention; the heads are multiplied by sigmoid(x Wgate^T + bgate) (`outputGate`); the part
 * `inner_attn_ln` norms the joined heads.
 *
 * x [batch, seq, dim], f32 or f16. Parameters q_proj, k_proj, v_proj, o_proj, gate_proj (`.weight` [out, in], initially
 * normal; `.bias`, initially zeros), `sinks` [heads], initially zeros.
 * Vaswani et al. 2017, arXiv:1706.03762, section 3.2; arXiv:1911.02150 (MQA); arXiv:2305.13245 (GQA); arXiv:2505.06708
 * (output gate).
 */
export class MultiHeadAttention extends Component<typeof MULTI_HEAD_ATTENTION> implements Stateful<KVCache> {
  static readonly schema = MULTI_HEAD_ATTENTION;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly #contextDim: number;
  readonly #scale: number;
  readonly #sight: ReturnType<typeof sightOf>;
  readonly #parts: AttentionParts;
  readonly #changes: ((from: number, to: number) => boolean) | undefined;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: MultiHeadAttentionConfig, parameters: Parameters, parts: AttentionParts = {}) {
    const { name: who } = MULTI_HEAD_ATTENTION;
    const { rope, position, ...norms } = PARTS.read(parts);
    super(MULTI_HEAD_ATTENTION, config, MultiHeadAttention.plan(config), parameters, norms);
    const { numKvHeads, headDim, contextDim } = sizesOf(this.config);
    this.numKvHeads = numKvHeads;
    this.headDim = headDim;
    this.#contextDim = contextDim;
    this.#sight = sightOf(this.config);
    const own = norms.q_norm?.scale;
    if (own !== undefined && this.config.scale !== undefined)
      throw new ConfigError(who, `scale is ${this.config.scale}; q_norm has a factor of its own, ${own}`);
    this.#scale = this.config.scale ?? own ?? headDim ** -0.5;
    this.#parts = { ...norms, rope, position };
    const rotations = [rope, position].filter((part) => part?.changes !== undefined);
    if (rotations.length > 0)
      this.#changes = (from, to) => rotations.some((part) => part?.changes?.(from, to));
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: MultiHeadAttentionConfig): ParameterPlan {
    const read = MULTI_HEAD_ATTENTION.read(config);
    const { dim, numHeads, qkvBias, outBias, outputGate, sinks } = read;
    const { numKvHeads, headDim, contextDim } = sizesOf(read);
    sightOf(read);
    const projection = (
      name: string,
      [out, into]: readonly [number, number],
      bias: boolean,
      role?: PlannedParameter["role"],
    ): ParameterPlan => ({
      [`${name}.weight`]: matrix(out, into, role),
      ...(bias ? { [`${name}.bias`]: zeros(out) } : {}),
    });
    const gates = { none: 0, element: numHeads * headDim, head: numHeads }[outputGate];
    return {
      ...projection("q_proj", [numHeads * headDim, dim], qkvBias),
      ...projection("k_proj", [numKvHeads * headDim, contextDim], qkvBias),
      ...projection("v_proj", [numKvHeads * headDim, contextDim], qkvBias, "value"),
      ...projection("o_proj", [dim, numHeads * headDim], outBias, "output"),
      ...(gates === 0 ? {} : projection("gate_proj", [gates, dim], qkvBias)),
      ...(sinks ? { sinks: zeros(numHeads) } : {}),
    };
  }

  /**
   * An empty state for decoding: of all tokens, or a ring where the configuration has a window.
   *
   * @throws ConfigError
   */
  createState(options: Config<typeof STATE>): KVCache {
    const { gpu } = this.weights["q_proj.weight"]!;
    const { numKvHeads, headDim } = this;
    return new KVCache(gpu, { ...STATE.read(options), numKvHeads, headDim, window: this.#sight.window });
  }

  /**
   * Keys and values of a context [batch, keys, contextDim], for any number of calls.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  contextCache(context: Tensor, options: Config<typeof CONTEXT> = {}): ContextCache {
    const { keyMask, normOptions } = CONTEXT.read(options);
    const { name: who } = CONTEXT;
    expectShape(who, "context", context, [null, null, this.#contextDim]);
    const { keys, values } = context.gpu.scope(() =>
      this.#keysAndValues(hideRows(who, context, keyMask), normOptions),
    );
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

  /** [batch, seq, heads, headDim] */
  #project(name: string, source: Tensor, heads: number): Tensor {
    const { qkvClip } = this.config;
    const made = splitHeads(source, heads, this.weights[`${name}.weight`]!, this.weights[`${name}.bias`]);
    return qkvClip === undefined ? made : clipped(made, qkvClip);
  }

  #keysAndValues(source: Tensor, normOptions: object | undefined): { keys: Tensor; values: Tensor } {
    const keys = this.#project("k_proj", source, this.numKvHeads);
    const values = this.#project("v_proj", source, this.numKvHeads);
    return { keys: this.#parts.k_norm?.forward(keys, normOptions) ?? keys, values };
  }

  #rotate(q: Tensor, k: Tensor, where: PositionContext): readonly [Tensor, Tensor] {
    const { rope, position } = this.#parts;
    const [query, key] = rope ? rope.applyQK(q, k, rotaryOptions(where)) : [q, k];
    if (!position?.rotate) return [query, key];
    const turned = position.rotate(query, key, where);
    return [turned.q, turned.k];
  }

  /** Self-attention with the encoding's terms of the scores, and its values by distance. */
  #attendSelf(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    options: AttentionOptions,
    [minDistance, maxDistance]: readonly [number, number],
  ): Tensor {
    const { position, q_norm } = this.#parts;
    const terms = position?.scores?.(q, keys, { scale: this.#scale, minDistance, maxDistance });
    if (terms?.scale !== undefined && q_norm?.scale !== undefined)
      throw new ConfigError(
        MULTI_HEAD_ATTENTION.name,
        "the encoding scales the scores itself; it does not go with a norm that does so too",
      );
    const { query = q, scale = this.#scale, modifiers = [] } = terms ?? {};
    const all = { ...options, scale, modifiers };
    if (!position?.values) return attention(query, keys, values, all);
    const { index } = position.values;
    const { out, weightSums } = attentionOutputs(query, keys, values, { ...all, weightSums: index });
    return position.values.add(out, weightSums!);
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
    const { context, keyMask, docs, state, positions, textLength, residual, normOptions } = OPTIONS.read(
      options,
      who,
    );
    const { dim, numHeads, causal, softcap } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    if (residual) expectShape(who, "residual", residual, x.shape);
    if (context && state) throw new ConfigError(who, "context and state are given; use contextCache");
    for (const [name, given] of Object.entries({ positions, textLength }))
      if (given !== undefined && !state)
        throw new ConfigError(who, `${name} is given without a state; rows are then counted from 0`);
    if (state && !causal) throw new ConfigError(who, "a state is given; causal must be true");
    const first = state?.length;
    if (state && docs && (positions !== undefined || first === undefined))
      throw new ConfigError(who, "docs are given with a state; positions must then be left out");
    return x.gpu.scope(() => {
      const ids = state?.place(seq, positions, { textLength, changes: this.#changes });
      let q = this.#project("q_proj", x, numHeads);
      q = this.#parts.q_norm?.forward(q, normOptions) ?? q;
      const { window, pattern: rule } = this.#sight;
      const common = {
        causal,
        softcap,
        ...(window === undefined ? {} : { window: { left: window - 1, right: causal ? 0 : window - 1 } }),
        ...(rule ? { pattern: rule } : {}),
        sinks: this.weights["sinks"],
      } satisfies AttentionOptions;
      if (context) {
        let made: { keys: Tensor; values: Tensor };
        if ("keys" in context) made = context;
        else {
          expectShape(who, "context", context, [batch, null, this.#contextDim]);
          made = this.#keysAndValues(hideRows(who, context, keyMask), normOptions);
        }
        const mask = keyMask ?? ("keys" in context ? context.keyMask : undefined);
        const own = { ...common, scale: this.#scale, layout: "bshd", keyMask: mask, docs } as const;
        const o = attention(q, made.keys, made.values, own);
        return { out: this.#merge(o, x, residual, normOptions), keys: made.keys, values: made.values };
      }
      if (this.#contextDim !== dim)
        throw new ConfigError(who, `context is missing; contextDim is ${this.#contextDim}, dim ${dim}`);
      const { keys: fresh, values } = this.#keysAndValues(x, normOptions);
      const [query, keys] = this.#rotate(q, fresh, {
        positionIds: ids,
        seqLen: state?.textLength ?? seq,
        maxPositions: state?.config.maxLength ?? seq,
      });
      const most = (state?.config.maxLength ?? Math.max(seq, 1)) - 1;
      const distances = [causal ? 0 : -most, most] as const;
      const o = state
        ? attendCached(
            who,
            [query, keys, values],
            state,
            {
              ...common,
              positions: ids,
              keyMask,
              distances: { min: distances[0], max: distances[1] },
              ...(docs && first !== undefined ? { docs: { ids: docs, first } } : {}),
            },
            (...given) => this.#attendSelf(...given, distances),
          )
        : this.#attendSelf(query, keys, values, { ...common, layout: "bshd", keyMask, docs }, distances);
      return { out: this.#merge(o, x, residual, normOptions), keys, values };
    });
  }

  /** The gate, the inner norm and the output projection. */
  #merge(o: Tensor, x: Tensor, residual: Tensor | undefined, normOptions: object | undefined): Tensor {
    const [batch, seq, heads, dim] = o.shape as [number, number, number, number];
    const gate = this.weights["gate_proj.weight"];
    const passed = gate ? gated(o, splitHeads(x, heads, gate, this.weights["gate_proj.bias"])) : o;
    const { inner_attn_ln } = this.#parts;
    const merged = inner_attn_ln
      ? inner_attn_ln.forward(passed.reshape([batch, seq, heads * dim]), normOptions).reshape(o.shape)
      : passed;
    return mergeHeads(merged, this.weights["o_proj.weight"]!, this.weights["o_proj.bias"], residual);
  }
}
