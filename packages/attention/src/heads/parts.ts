import {
  schema,
  value,
  type ComponentPart,
  type Field,
  type RelativeIndex,
  type ScoreModifier,
  type Tensor,
} from "@x/kernels";

/** A norm of queries or keys [batch, seq, heads, headDim], such as RMSNorm or QKNorm of @x/norm. */
export interface HeadNorm extends ComponentPart {
  /** x [batch, seq, heads, headDim] to the same shape; `options` is the call's `normOptions`. */
  forward(x: Tensor, options?: object): Tensor;
  /** The factor of q.k where the norm has a factor of its own (QKNorm of the kind "l2"). */
  readonly scale?: number | undefined;
}

/** A norm over all features of the joined heads, such as RMSNorm of @x/norm. */
export interface JoinedNorm extends ComponentPart {
  /** x [batch, seq, numHeads headDim] to the same shape; `options` is the call's `normOptions`. */
  forward(x: Tensor, options?: object): Tensor;
}

/** Positions of a call's tokens, for an encoding. */
export interface PositionContext {
  /** i32 [batch, seq] with a state; without one, rows are counted from 0. */
  readonly positionIds: Tensor | undefined;
  /** Tokens of the whole text, those of the state included: frequencies may depend on it. */
  readonly seqLen: number;
  /** All positions are below it, in this call and in later ones with the same state: rows that a table needs. */
  readonly maxPositions: number;
}

/** Rotary position embedding: `RotaryEmbedding` of @x/positional. */
export interface Rotary {
  /** Rotates queries and keys [batch, seq, heads, features], whose heads may differ in number. */
  applyQK(
    q: Tensor,
    k: Tensor,
    options: {
      readonly layout: "bshd";
      readonly seqLen: number;
      readonly positionIds?: Tensor;
      readonly maxPositions?: number;
    },
  ): readonly [Tensor, Tensor];
  /** Whether a text of `to` tokens is rotated otherwise than one of `from` tokens. Default: never. */
  changes?(from: number, to: number): boolean;
}

/** What an encoding needs to know for its terms of the scores. */
export interface ScoreRange {
  /** Factor of q.k that attention uses. */
  readonly scale: number;
  /** Bounds of query position - key position over all visible pairs. */
  readonly minDistance: number;
  readonly maxDistance: number;
}

/** Changes of the scores by an encoding. */
export interface ScoreTerms {
  /** The query in place of q (Transformer-XL adds a bias to it). */
  readonly query?: Tensor | undefined;
  /** The factor of q.k in place of attention's (DeBERTa). */
  readonly scale?: number | undefined;
  readonly modifiers: readonly ScoreModifier[];
}

/** An encoding of positions inside self-attention; q and k are [batch, seq, heads, headDim] ("bshd"). */
export interface AttentionPosition {
  /** Rotates queries and keys before keys are stored. */
  rotate?(q: Tensor, k: Tensor, context: PositionContext): { readonly q: Tensor; readonly k: Tensor };
  /**
   * Whether `rotate` gives other keys in a text of `to` tokens than in one of `from` tokens, which makes keys in a
   * cache stale. Default: never.
   */
  changes?(from: number, to: number): boolean;
  /** Returns the terms of the scores of the queries and all keys, those of the state included. */
  scores?(q: Tensor, keys: Tensor, range: ScoreRange): ScoreTerms;
  /** Values that depend on the distance (Shaw): the weights are summed by `index` and given to `add`. */
  readonly values?:
    | {
        readonly index: RelativeIndex;
        /** out [batch, seq, heads, headDim], weightSums [batch, heads, seq, index.rows]; returns the new out. */
        add(out: Tensor, weightSums: Tensor): Tensor;
      }
    | undefined;
}

const has = (given: unknown, names: readonly string[]): boolean =>
  typeof given === "object" &&
  given !== null &&
  names.every((name) => typeof Reflect.get(given, name) === "function");
const isHeadNorm = (given: unknown): given is HeadNorm => has(given, ["forward", "parameters"]);
const isJoinedNorm = (given: unknown): given is JoinedNorm => has(given, ["forward", "parameters"]);
const isPosition = (given: unknown): given is AttentionPosition =>
  typeof given === "object" &&
  given !== null &&
  ["rotate", "changes", "scores"].every((name) =>
    ["function", "undefined"].includes(typeof Reflect.get(given, name)),
  );

const NORM = "a component with forward and parameters";
const headNorm = (whose: string): Field<HeadNorm, "optional"> =>
  value(`Norm of the ${whose} before their rotation.`, NORM, isHeadNorm, { optional: true });

/** The field of a rotary embedding. */
export const ROPE_PART = value(
  "Rotation of queries and keys by position.",
  "a rotary embedding with applyQK",
  (given: unknown): given is Rotary => has(given, ["applyQK"]),
  { optional: true },
);

/** What MultiHeadAttention may be made with besides its parameters. */
export const PARTS = schema("MultiHeadAttention: parts", {
  q_norm: headNorm("queries"),
  k_norm: headNorm("keys"),
  inner_attn_ln: value("Norm of the joined heads before o_proj (Sub-LN).", NORM, isJoinedNorm, {
    optional: true,
  }),
  rope: ROPE_PART,
  position: value("Another encoding of positions.", "an object with rotate or scores", isPosition, {
    optional: true,
  }),
});

/** What the options of an encoding's rotation are for a rotary embedding. */
export const rotaryOptions = ({
  positionIds,
  seqLen,
  maxPositions,
}: PositionContext): Parameters<Rotary["applyQK"]>[2] => ({
  layout: "bshd",
  seqLen,
  ...(positionIds ? { positionIds, maxPositions } : {}),
});
