import { checkConfig, ConfigError, expectBoolean, expectInteger, expectOneOf } from "@x/kernels";

interface Common {
  /** Hide keys after the query. */
  readonly causal?: boolean;
}

/** Half of a Sparse Transformer pattern. */
export type Part = "local" | "column" | "union";

/** Which keys a query sees: a JSON object with a `kind`. i is the query's position, j the key's, d = i - j. */
export type PatternConfig =
  | (Common & { readonly kind: "full" | "causal" })
  /** d <= left and -d <= right; -1 is unlimited. */
  | (Common & { readonly kind: "slidingWindow"; readonly left?: number; readonly right?: number })
  /** The own block, `back` before it and `ahead` after it. */
  | (Common & {
      readonly kind: "blockLocal";
      readonly block: number;
      readonly back?: number;
      readonly ahead?: number;
    })
  /** Every dilation-th key of a window; one dilation, or one per head. */
  | (Common & {
      readonly kind: "dilatedWindow";
      readonly left: number;
      readonly right: number;
      readonly dilation: number | readonly number[];
    })
  /** Tokens that see everything and are seen by everything. */
  | (Common & { readonly kind: "global"; readonly tokens: readonly number[] })
  /** The first tokens. */
  | (Common & { readonly kind: "sink"; readonly count: number })
  /** Blocks drawn at random for each block of queries. */
  | (Common & {
      readonly kind: "random";
      readonly count: number;
      readonly seed: number;
      readonly block?: number;
      readonly perHead?: boolean;
    })
  | (Common & {
      readonly kind: "bigbird";
      readonly block: number;
      readonly windowBlocks?: number;
      readonly globalFirst?: number;
      readonly globalLast?: number;
      readonly randomBlocks: number;
      readonly seed: number;
      readonly perHead?: boolean;
    })
  | (Common & {
      readonly kind: "sparseStrided";
      readonly stride: number;
      readonly localKeys?: number;
      readonly part?: Part | readonly Part[];
    })
  | (Common & {
      readonly kind: "sparseFixed";
      readonly block: number;
      readonly summary: number;
      readonly variants?: number;
      readonly part?: Part | readonly Part[];
    })
  | (Common & {
      readonly kind: "dilatedSegment";
      readonly segment: number;
      readonly dilation: number;
      readonly headOffset?: "mod" | "block";
    })
  | (Common & { readonly kind: "union" | "intersection"; readonly of: readonly PatternConfig[] })
  /** A pattern of its own for each head. */
  | (Common & { readonly kind: "perHead"; readonly of: readonly PatternConfig[] });

type Check = (who: string, key: string, value: unknown) => void;

const integer =
  (least: number, most?: number): Check =>
  (who, key, value) => {
    expectInteger(who, key, value, least, most);
  };
const oneOf =
  (...names: readonly string[]): Check =>
  (who, key, value) => {
    expectOneOf(who, key, value, names);
  };
const list =
  (each: Check, least = 0): Check =>
  (who, key, value) => {
    if (!Array.isArray(value) || value.length < least)
      throw new ConfigError(who, `${key} is ${JSON.stringify(value)}; it must be a list`);
    for (const item of value as unknown[]) each(who, key, item);
  };
const oneOrList =
  (each: Check): Check =>
  (who, key, value) => {
    (Array.isArray(value) ? list(each) : each)(who, key, value);
  };
const needed =
  (check: Check): Check =>
  (who, key, value) => {
    if (value === undefined) throw new ConfigError(who, `${key} is missing`);
    check(who, key, value);
  };
const optional =
  (check: Check): Check =>
  (who, key, value) => {
    if (value !== undefined) check(who, key, value);
  };

const count = needed(integer(0));
const size = needed(integer(1));
const seed = needed(integer(0, 2 ** 32 - 1));
const part = optional(oneOrList(oneOf("local", "column", "union")));
const of = needed(
  list((_, __, value) => {
    checkPattern(value as PatternConfig);
  }, 1),
);

/** What each kind of pattern may be given, `causal` aside. */
const FIELDS: Readonly<Record<PatternConfig["kind"], Readonly<Record<string, Check>>>> = {
  full: {},
  causal: {},
  slidingWindow: { left: optional(integer(-1)), right: optional(integer(-1)) },
  blockLocal: { block: size, back: optional(integer(0)), ahead: optional(integer(0)) },
  dilatedWindow: { left: count, right: count, dilation: needed(oneOrList(integer(1))) },
  global: { tokens: needed(list(integer(0))) },
  sink: { count },
  random: { count, seed, block: optional(integer(1)), perHead: optional(expectBoolean) },
  bigbird: {
    block: size,
    windowBlocks: optional(integer(1)),
    globalFirst: optional(integer(0)),
    globalLast: optional(integer(0)),
    randomBlocks: count,
    seed,
    perHead: optional(expectBoolean),
  },
  sparseStrided: { stride: size, localKeys: optional(integer(0)), part },
  sparseFixed: { block: size, summary: size, variants: optional(integer(1)), part },
  dilatedSegment: { segment: size, dilation: size, headOffset: optional(oneOf("mod", "block")) },
  union: { of },
  intersection: { of },
  perHead: { of },
};

const CAUSAL_BY_DEFAULT: readonly PatternConfig["kind"][] = [
  "causal",
  "sink",
  "sparseStrided",
  "sparseFixed",
];

/** Whether a pattern hides the keys after the query by its own key `causal`. */
export const isCausal = (p: PatternConfig): boolean =>
  p.kind === "causal" || (p.causal ?? CAUSAL_BY_DEFAULT.includes(p.kind));

/** Refuse a pattern that is not one. @throws ConfigError that names the kind, the key, what is given and the rule. */
export function checkPattern(config: PatternConfig): void {
  if (typeof config !== "object" || (config as unknown) === null || Array.isArray(config))
    throw new ConfigError("pattern", `given ${JSON.stringify(config)}; it must be an object with a kind`);
  expectOneOf("pattern", "kind", config.kind, Object.keys(FIELDS) as PatternConfig["kind"][]);
  const who = `pattern ${config.kind}`;
  const fields = { ...FIELDS[config.kind], causal: optional(expectBoolean) };
  checkConfig(who, config, ["kind", ...Object.keys(fields)]);
  for (const [key, check] of Object.entries(fields))
    check(who, key, (config as unknown as Readonly<Record<string, unknown>>)[key]);
  if (config.kind === "bigbird" && (config.windowBlocks ?? 3) % 2 === 0)
    throw new ConfigError(who, `windowBlocks is ${config.windowBlocks}; it must be odd`);
  if (config.kind === "sparseFixed" && config.summary * (config.variants ?? 1) > config.block)
    throw new ConfigError(
      who,
      `summary ${config.summary} times variants ${config.variants ?? 1} exceeds block ${config.block}`,
    );
}
