import { ConfigError, expectInteger, expectRecord, integer, schema, value, type Config } from "@x/kernels";
import { buildRule } from "./build.js";
import { checkPattern, isCausal, type Part, type PatternConfig } from "./config.js";
import { patternSvg, textPicture, type PictureOptions } from "./picture.js";
import { predicate, type Rule } from "./rule.js";
import { countBlocks, visits } from "./visits.js";

const SIZE = schema("pattern", {
  heads: integer("Heads.", { min: 1, default: 1 }),
  queries: integer("Queries.", { min: 0 }),
  keys: integer("Keys.", { min: 0, defaultDoc: "queries" }),
  queryOffset: integer("Position of the first query.", { defaultDoc: "keys - queries" }),
});
export type PatternSize = Config<typeof SIZE>;

const BLOCK = schema("pattern block", {
  rows: integer("Queries of a block.", { min: 1, default: 8 }),
  columns: integer("Keys of a block.", { min: 1, default: 32 }),
});

/**
 * Which keys a query sees, as a value: `slidingWindow(256).or(globalTokens(4)).and(causal())`.
 *
 * The methods apply from left to right, so `causal()` stands last: `causal().or(globalTokens(4))` also sees whatever the
 * global tokens see, which is the future. `causal` says which it is.
 *
 * One definition gives the kernel's predicate, the blocks that the kernels visit, the mask for tests (`mask`), the
 * pictures (`text`, `svg`) and the JSON form (`toJSON`, `pattern`).
 */
export class Pattern {
  readonly config: PatternConfig;
  readonly #rules: Map<string, Rule> = new Map<string, Rule>();

  /** @throws ConfigError if the object is not a pattern. */
  constructor(config: PatternConfig) {
    checkPattern(config);
    this.config = config;
  }

  /** Pairs that both patterns see. */
  and(...others: readonly (Pattern | PatternConfig)[]): Pattern {
    return join("intersection", [this, ...others]);
  }

  /** Pairs that either pattern sees. */
  or(...others: readonly (Pattern | PatternConfig)[]): Pattern {
    return join("union", [this, ...others]);
  }

  /** Whether no query sees a key after its own position, whatever the sizes. */
  get causal(): boolean {
    return hidesFuture(this.config);
  }

  toJSON(): PatternConfig {
    return this.config;
  }

  /** The rule over a number of heads and keys. @throws ConfigError */
  rule(heads: number, keys: number): Rule {
    expectInteger("pattern", "heads", heads, 1);
    expectInteger("pattern", "keys", keys, 0);
    const name = `${heads},${keys}`;
    let rule = this.#rules.get(name);
    if (!rule) {
      if (this.#rules.size > 8) this.#rules.clear();
      this.#rules.set(name, (rule = buildRule(this.config, { heads, keys })));
    }
    return rule;
  }

  /** May head h at position i see position j? */
  sees(size: PatternSize): (head: number, i: number, j: number) => boolean {
    const { heads, keys } = filled(size);
    return predicate(this.rule(heads, keys));
  }

  /** 1 where a query sees a key: [heads, queries, keys] row by row. */
  mask(size: PatternSize): Int32Array {
    const { heads, queries, keys, queryOffset } = filled(size);
    const rule = this.sees(size);
    const out = new Int32Array(heads * queries * keys);
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < queries; i++)
        for (let j = 0; j < keys; j++)
          out[(h * queries + i) * keys + j] = rule(h, i + queryOffset, j) ? 1 : 0;
    return out;
  }

  /** Share of the blocks of `rows` queries by `columns` keys that hold a visible pair. */
  share(size: PatternSize, block: Config<typeof BLOCK> = {}): number {
    const { heads, queries, keys, queryOffset } = filled(size);
    const { rows, columns } = BLOCK.read(block);
    const rule = this.rule(heads, keys);
    const side = (first: number, count: number, block: number): Parameters<typeof visits>[2] => ({
      stride: 1,
      first,
      count,
      block,
      shared: 1,
    });
    let visited = 0;
    for (let h = 0; h < heads; h++)
      visited += countBlocks(
        visits(rule, [h], side(queryOffset, queries, rows), side(0, keys, columns), false),
      );
    return visited / (heads * Math.ceil(queries / rows) * Math.ceil(keys / columns));
  }

  /** The mask of one head as lines of text, a row of queries to a line. */
  text(size: PatternSize, options: PictureOptions = {}): string {
    return textPicture(this.sees(size), filled(size), options);
  }

  /** The mask of one head as an SVG picture, with the blocks that the kernels visit. */
  svg(size: PatternSize, options: PictureOptions = {}): string {
    return patternSvg(this.sees(size), filled(size), options);
  }
}

function filled(size: PatternSize): {
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly queryOffset: number;
} {
  const { heads, queries, ...given } = SIZE.read(size);
  const { keys = queries, queryOffset = keys - queries } = given;
  return { heads, queries, keys, queryOffset };
}

export const configOf = (p: Pattern | PatternConfig): PatternConfig =>
  (p as Partial<Pattern> | null)?.config ?? (p as PatternConfig);

/** The JSON form of what must be a pattern. @throws ConfigError */
function checked(p: Pattern | PatternConfig): PatternConfig {
  const config = configOf(p);
  if (!(p instanceof Pattern)) checkPattern(config);
  return config;
}

/** A pattern of a kind with the options of its caller. @throws ConfigError */
function made(own: PatternConfig, options: object): Pattern {
  expectRecord(`pattern ${own.kind}`, "options", options);
  return new Pattern({ ...options, ...own });
}

/** Whether the keys after a query are hidden: by a key `causal`, by a window that ends at the query, or by the parts. */
function hidesFuture(p: PatternConfig): boolean {
  if (isCausal(p)) return true;
  switch (p.kind) {
    case "slidingWindow":
    case "dilatedWindow":
      return p.right === 0;
    case "intersection":
      return p.of.some(hidesFuture);
    case "union":
    case "perHead":
      return p.of.every(hidesFuture);
    default:
      return false;
  }
}

function join(kind: "union" | "intersection", parts: readonly (Pattern | PatternConfig)[]): Pattern {
  const of = parts.map(checked).flatMap((p) => (p.kind === kind && !isCausal(p) ? p.of : [p]));
  return new Pattern({ kind, of });
}

/** A pattern from its JSON form. */
export const pattern = (config: Pattern | PatternConfig): Pattern =>
  config instanceof Pattern ? config : new Pattern(config);

/** Every key. */
export const full = (): Pattern => new Pattern({ kind: "full" });

/** Keys up to the own position. */
export const causal = (): Pattern => new Pattern({ kind: "causal" });

/** `left` keys before the own one and `right` after it (default as many); -1 is unlimited. */
export const slidingWindow = (left: number, right: number = left): Pattern =>
  new Pattern({ kind: "slidingWindow", left, right });

/** The own block of positions, `back` blocks before it and `ahead` after it. */
export const blockLocal = (block: number, back = 0, ahead = 0): Pattern =>
  new Pattern({ kind: "blockLocal", block, back, ahead });

/** Every `dilation`-th key of a window; one dilation or one per head (Longformer, arXiv:2004.05150). */
export const dilatedWindow = (left: number, right: number, dilation: number | readonly number[]): Pattern =>
  new Pattern({ kind: "dilatedWindow", left, right, dilation });

/** Tokens that see and are seen by all: positions, or the first so many. */
export const globalTokens = (tokens: number | readonly number[]): Pattern =>
  new Pattern({
    kind: "global",
    tokens: typeof tokens === "number" ? Array.from({ length: tokens }, (_, i) => i) : tokens,
  });

/** The first tokens, for all that come after them (StreamingLLM, arXiv:2309.17453). */
export const sink = (count: number): Pattern => new Pattern({ kind: "sink", count });

/** Blocks drawn at random for each block of queries, the same on every machine. */
export const randomBlocks = (
  count: number,
  seed: number,
  options: { readonly block?: number; readonly perHead?: boolean; readonly causal?: boolean } = {},
): Pattern => made({ kind: "random", count, seed }, options);

/** Window, global and random blocks (BigBird, arXiv:2007.14062). */
export const bigBird = (options: Omit<Extract<PatternConfig, { kind: "bigbird" }>, "kind">): Pattern =>
  made({ kind: "bigbird" } as PatternConfig, options);

/** The last `stride` keys and every `stride`-th before them (Sparse Transformer, arXiv:1904.10509, section 4.2). */
export const sparseStrided = (
  stride: number,
  options: {
    readonly localKeys?: number;
    readonly part?: Part | readonly Part[];
    readonly causal?: boolean;
  } = {},
): Pattern => made({ kind: "sparseStrided", stride }, options);

/** The own block and the last `summary` keys of each block (Sparse Transformer, arXiv:1904.10509, section 4.2). */
export const sparseFixed = (
  block: number,
  summary: number,
  options: {
    readonly variants?: number;
    readonly part?: Part | readonly Part[];
    readonly causal?: boolean;
  } = {},
): Pattern => made({ kind: "sparseFixed", block, summary }, options);

/** Every `dilation`-th token of a segment sees the others (LongNet, arXiv:2307.02486). */
export const dilatedSegment = (
  segment: number,
  dilation: number,
  options: { readonly headOffset?: "mod" | "block"; readonly causal?: boolean } = {},
): Pattern => made({ kind: "dilatedSegment", segment, dilation }, options);

const PATTERNS = value(
  "Patterns.",
  "a list of patterns",
  (given: unknown): given is readonly (Pattern | PatternConfig)[] => Array.isArray(given),
);

/** A pattern of its own for each head. @throws ConfigError */
export function perHead(patterns: readonly (Pattern | PatternConfig)[]): Pattern {
  PATTERNS.check("pattern perHead", "patterns", patterns);
  return new Pattern({ kind: "perHead", of: patterns.map(configOf) });
}

/** The mask of a pattern, 1 where a query sees a key: [heads, queries, keys] row by row. */
export const maskMatrix = (config: Pattern | PatternConfig, size: PatternSize): Int32Array =>
  pattern(config).mask(size);

/** A pattern that is a window, as options of `attention`; undefined for others. */
export function windowOf(
  config: Pattern | PatternConfig,
):
  | { readonly causal: boolean; readonly window?: { readonly left: number; readonly right: number } }
  | undefined {
  const p = checked(config);
  const causal = isCausal(p);
  if (p.kind === "full" || p.kind === "causal") return { causal };
  if (p.kind === "slidingWindow") return { causal, window: { left: p.left ?? -1, right: p.right ?? -1 } };
  if (p.kind !== "intersection") return undefined;
  let [left, right, anyCausal] = [-1, -1, causal];
  const least = (a: number, b: number): number => (a < 0 ? b : b < 0 ? a : Math.min(a, b));
  for (const part of p.of) {
    const own = windowOf(part);
    if (!own) return undefined;
    anyCausal ||= own.causal;
    left = least(left, own.window?.left ?? -1);
    right = least(right, own.window?.right ?? -1);
  }
  return { causal: anyCausal, ...(left >= 0 || right >= 0 ? { window: { left, right } } : {}) };
}

/** Refuse a pattern whose mask of earlier rows changes as keys are added. @throws ConfigError */
export function checkDecodable(who: string, config: Pattern | PatternConfig): void {
  const p = checked(config);
  if (p.kind === "random" && !isCausal(p))
    throw new ConfigError(who, "random without causal changes with the length; set causal: true to decode");
  if (p.kind === "bigbird" && (!isCausal(p) || (p.globalLast ?? 1) > 0))
    throw new ConfigError(
      who,
      "bigbird changes with the length; set causal: true and globalLast: 0 to decode",
    );
  if ("of" in p) for (const part of p.of) checkDecodable(who, part);
}
