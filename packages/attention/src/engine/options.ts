import { e, expectNumber, input, type RelativeIndex, type ScoreModifier, type Tensor } from "@x/kernels";
import type { PatternConfig } from "../patterns/config.js";
import type { Pattern } from "../patterns/pattern.js";

/** Order of the axes of q, k, v and out. */
export type AttentionLayout = "bhsd" | "bshd";

/** A mask predicate in WGSL, for masks that no pattern expresses; no block is skipped for it. */
export interface MaskFunction {
  /** Text of `fn pattern(h: u32, i: i32, j: i32) -> bool`; i and j are positions. */
  readonly wgsl: string;
}

/** Positions of rows that are not simply counted: caches and packed batches. */
export interface AttentionPositions {
  /** i32 [batch, queries] and [batch, keys]; a key below 0 is an empty slot. */
  readonly query: Tensor;
  readonly key: Tensor;
  /**
   * Key n stands at n or later, or is empty, as in a cache that fills its slots in order: keys past a causal query are
   * then not visited.
   */
  readonly inOrder?: boolean;
  /** Positions are below it, for patterns that are laid over the whole sequence; default: the number of keys. */
  readonly length?: number;
  /** Bounds of query position - key position, for modifiers that look distances up. */
  readonly minDistance?: number;
  readonly maxDistance?: number;
}

export interface AttentionOptions {
  /** Factor of q.k; default headDim^-0.5. */
  readonly scale?: number;
  /** Hide keys after the query. */
  readonly causal?: boolean;
  /** Keys to see beside the own one on each side; -1: all. A Mistral window of W keys is left: W - 1, right: 0. */
  readonly window?: { readonly left: number; readonly right: number } | undefined;
  /** Position of the first query; default keys - queries, so that the last query sees the last key. */
  readonly queryOffset?: number;
  /** Score = softcap tanh(score / softcap), before modifiers and bias (Gemma 2); 0: off. */
  readonly softcap?: number;
  /** Positional terms, in order. */
  readonly modifiers?: readonly ScoreModifier[];
  /** Added last; f32, broadcasts to [batch, heads, queries, keys]. */
  readonly bias?: Tensor | undefined;
  /** i32, broadcasts to [batch, heads, queries, keys]: 1 keeps. */
  readonly mask?: Tensor | undefined;
  /** i32 [batch, keys]: 1 keeps. */
  readonly keyMask?: Tensor | undefined;
  /** i32 [batch, keys]: document of each token; rows see their own document; below 0 is padding. */
  readonly docs?: Tensor | undefined;
  /** f32 [heads]: a logit in the denominator without a value (gpt-oss). */
  readonly sinks?: Tensor | undefined;
  /** Which keys a query sees, in addition to the masks; blocks without a visible pair are never visited. */
  readonly pattern?: Pattern | PatternConfig | MaskFunction | undefined;
  readonly positions?: AttentionPositions | undefined;
  /** "bhsd" (default): [batch, heads, seq, headDim]; "bshd": [batch, seq, heads, headDim]. */
  readonly layout?: AttentionLayout;
  /** Also give the weights summed by row of this index, [batch, heads, queries, index.rows]. */
  readonly weightSums?: RelativeIndex | undefined;
}

export interface AttentionResult {
  readonly out: Tensor;
  /** log of the sum of exponentials, [batch, heads, queries]; -inf for a row that sees nothing. Differentiable. */
  readonly lse: Tensor;
  readonly weightSums: Tensor | undefined;
}

/** What `AttentionOptions` may hold. */
export const OPTIONS: readonly string[] = [
  "scale",
  "causal",
  "window",
  "queryOffset",
  "softcap",
  "modifiers",
  "bias",
  "mask",
  "keyMask",
  "docs",
  "sinks",
  "pattern",
  "positions",
  "layout",
  "weightSums",
];

const softcapTerms = new Map<number, ScoreModifier>();
/** cap tanh(score / cap), as a modifier. */
export function softcapModifier(cap: number): ScoreModifier {
  expectNumber("softcapModifier", "cap", cap, Number.MIN_VALUE);
  let term = softcapTerms.get(cap);
  if (!term) {
    term = { kind: "pointwise", name: "softcap", expr: e.mul(cap, e.tanh(e.mul(input("score"), 1 / cap))) };
    softcapTerms.set(cap, term);
  }
  return term;
}
