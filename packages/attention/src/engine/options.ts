import {
  boolean,
  e,
  expectNumber,
  input,
  integer,
  listOf,
  nested,
  number,
  oneOf,
  schema,
  Tensor,
  tensor,
  value,
  type Config,
  type RelativeIndex,
  type ScoreModifier,
} from "@x/kernels";
import type { PatternConfig } from "../patterns/config.js";
import type { Pattern } from "../patterns/pattern.js";

/** A mask predicate in WGSL, for masks that no pattern expresses; no block is skipped for it. */
export interface MaskFunction {
  /** Text of `fn pattern(h: u32, i: i32, j: i32) -> bool`; i and j are positions. */
  readonly wgsl: string;
}

const isObject = (given: unknown): given is object => typeof given === "object" && given !== null;
/** Whether a value is a map from distances to rows, of any loaded copy of the kernels. */
const isIndex = (given: unknown): given is RelativeIndex =>
  isObject(given) &&
  typeof Reflect.get(given, "table") === "function" &&
  typeof Reflect.get(given, "rows") === "number";
const isModifier = (given: unknown): given is ScoreModifier => {
  if (!isObject(given)) return false;
  const { kind, expr, slopes, axes, tensor, index } = given as Readonly<Record<string, unknown>>;
  return kind === "pointwise"
    ? isObject(expr) && (slopes === undefined || Tensor.isInstance(slopes))
    : kind === "relative" &&
        ["h", "bhq", "bhk"].includes(axes as string) &&
        Tensor.isInstance(tensor) &&
        isIndex(index);
};

const WINDOW = schema("window", {
  left: integer("Keys before the query; -1: all.", { min: -1 }),
  right: integer("Keys after the query; -1: all.", { min: -1 }),
});

const POSITIONS = schema("positions", {
  query: tensor("i32 [batch, queries]."),
  key: tensor("i32 [batch, keys]; a key below 0 is an empty slot."),
  inOrder: boolean(
    "Key n stands at n or later, or is empty, as in a cache that fills its slots in order: keys past a causal query are " +
      "then not visited.",
    { optional: true },
  ),
  length: integer("Positions are below it, for patterns that are laid over the whole sequence.", {
    min: 0,
    defaultDoc: "the number of keys",
  }),
  minDistance: integer("Least query position - key position, for modifiers that look distances up.", {
    optional: true,
  }),
  maxDistance: integer("Greatest query position - key position.", { optional: true }),
});
/** Positions of rows that are not simply counted: caches and packed batches. */
export type AttentionPositions = Config<typeof POSITIONS>;

/** Options of every form of attention. */
export const COMMON_FIELDS = {
  scale: number("Factor of q.k.", { defaultDoc: "headDim^-0.5" }),
  causal: boolean("Hides keys after the query.", { optional: true }),
  window: nested(
    WINDOW,
    "Keys that a query sees besides its own, on each side. A Mistral window of W keys is left: W - 1, right: 0.",
    { optional: true },
  ),
  softcap: number(
    "Score = softcap tanh(score / softcap), before modifiers and bias (Gemma 2); 0: the scores as they are.",
    { min: 0, optional: true },
  ),
  modifiers: listOf(
    value("A positional term.", "a score modifier", isModifier),
    "Positional terms, in order.",
    { optional: true },
  ),
  bias: tensor("Added last; f32, broadcasts to [batch, heads, queries, keys].", { optional: true }),
  mask: tensor("i32, broadcasts to [batch, heads, queries, keys]: 1 keeps.", { optional: true }),
  sinks: tensor("f32 [heads]: a logit in the denominator without a value (gpt-oss).", { optional: true }),
  pattern: value(
    "Which keys a query sees, in addition to the masks; blocks without a visible pair are never visited.",
    "an object with a kind, or with wgsl",
    (given: unknown): given is Pattern | PatternConfig | MaskFunction =>
      isObject(given) && !Array.isArray(given),
    { optional: true },
  ),
};

const SCORE_FIELDS = {
  ...COMMON_FIELDS,
  queryOffset: integer("Position of the first query.", {
    defaultDoc: "keys - queries, so that the last query sees the last key",
  }),
  keyMask: tensor("i32 [batch, keys]: 1 keeps.", { optional: true }),
  docs: tensor(
    "i32 [batch, keys]: document of each token; rows see their own document; below 0 is padding.",
    {
      optional: true,
    },
  ),
  positions: nested(POSITIONS, "Positions of rows that are not simply counted.", { optional: true }),
  layout: oneOf(
    '"bhsd": [batch, heads, seq, headDim]; "bshd": [batch, seq, heads, headDim].',
    ["bhsd", "bshd"],
    { optional: true },
  ),
};

/** What `attentionScores` and `attentionWeights` take. */
export const SCORES = schema("attentionScores", SCORE_FIELDS);
export type AttentionWeightsOptions = Config<typeof SCORES>;

/** What `attention` and `attentionOutputs` take. */
export const ATTENTION = schema("attention", {
  ...SCORE_FIELDS,
  weightSums: value(
    "Also gives the weights summed by row of this index, [batch, heads, queries, index.rows].",
    "a RelativeIndex",
    isIndex,
    { optional: true },
  ),
});
export type AttentionOptions = Config<typeof ATTENTION>;

/** Order of the axes of q, k, v and out; default "bhsd". */
export type AttentionLayout = NonNullable<AttentionOptions["layout"]>;

export interface AttentionResult {
  readonly out: Tensor;
  /** log of the sum of exponentials, [batch, heads, queries]; -inf for a row that sees nothing. Differentiable. */
  readonly lse: Tensor;
  readonly weightSums: Tensor | undefined;
}

const softcapTerms = new Map<number, ScoreModifier>();
/** Returns cap tanh(score / cap) as a modifier. @throws ConfigError */
export function softcapModifier(cap: number): ScoreModifier {
  expectNumber("softcapModifier", "cap", cap, Number.MIN_VALUE);
  let term = softcapTerms.get(cap);
  if (!term) {
    term = { kind: "pointwise", name: "softcap", expr: e.mul(cap, e.tanh(e.mul(input("score"), 1 / cap))) };
    softcapTerms.set(cap, term);
  }
  return term;
}
