import { checkConfig, ConfigError, expectInteger, expectOneOf } from "@x/kernels";

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

const KEYS: Readonly<Record<PatternConfig["kind"], readonly string[]>> = {
  full: [],
  causal: [],
  slidingWindow: ["left", "right"],
  blockLocal: ["block", "back", "ahead"],
  dilatedWindow: ["left", "right", "dilation"],
  global: ["tokens"],
  sink: ["count"],
  random: ["count", "seed", "block", "perHead"],
  bigbird: ["block", "windowBlocks", "globalFirst", "globalLast", "randomBlocks", "seed", "perHead"],
  sparseStrided: ["stride", "localKeys", "part"],
  sparseFixed: ["block", "summary", "variants", "part"],
  dilatedSegment: ["segment", "dilation", "headOffset"],
  union: ["of"],
  intersection: ["of"],
  perHead: ["of"],
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

/** Least value of each integer key. */
const LEAST: Readonly<Record<string, number>> = {
  block: 1,
  back: 0,
  ahead: 0,
  count: 0,
  windowBlocks: 1,
  globalFirst: 0,
  globalLast: 0,
  randomBlocks: 0,
  stride: 1,
  localKeys: 0,
  summary: 1,
  variants: 1,
  segment: 1,
  seed: 0,
};
const REQUIRED: readonly string[] = ["tokens", "of", "dilation", "randomBlocks", "seed", "stride", "segment"];

/** Refuse a pattern that is not one. @throws ConfigError that names the kind, the key, what is given and the rule. */
export function checkPattern(config: PatternConfig): void {
  if (typeof config !== "object" || (config as unknown) === null || Array.isArray(config))
    throw new ConfigError("pattern", `given ${JSON.stringify(config)}; it must be an object with a kind`);
  expectOneOf("pattern", "kind", config.kind, Object.keys(KEYS) as PatternConfig["kind"][]);
  const who = `pattern ${config.kind}`;
  checkConfig(who, config, ["kind", "causal", ...KEYS[config.kind]]);
  const values = config as unknown as Readonly<Record<string, unknown>>;
  const needed = [...REQUIRED, ...(["random", "sink"].includes(config.kind) ? ["count"] : [])];
  const blocks = ["blockLocal", "bigbird", "sparseFixed"].includes(config.kind) ? ["block"] : [];
  const sides = config.kind === "dilatedWindow" ? ["left", "right"] : [];
  const summary = config.kind === "sparseFixed" ? ["summary"] : [];
  for (const key of KEYS[config.kind]) {
    const value = values[key];
    if (value === undefined) {
      if ([...needed, ...blocks, ...sides, ...summary].includes(key))
        throw new ConfigError(who, `${key} is missing`);
      continue;
    }
    if (key === "left" || key === "right")
      expectInteger(who, key, value, config.kind === "slidingWindow" ? -1 : 0);
    else if (key in LEAST) expectInteger(who, key, value, LEAST[key]!);
    else if (key === "dilation" || key === "tokens") {
      const least = key === "dilation" ? 1 : 0;
      const list = Array.isArray(value) ? (value as unknown[]) : undefined;
      if (!list && (key === "tokens" || config.kind !== "dilatedWindow"))
        if (key === "tokens")
          throw new ConfigError(who, `tokens is ${JSON.stringify(value)}; it must be a list`);
      if (list && config.kind === "dilatedSegment")
        throw new ConfigError(who, `dilation is ${JSON.stringify(value)}; it must be one integer`);
      for (const n of list ?? [value]) expectInteger(who, key, n, least);
    } else if (key === "part") {
      for (const part of Array.isArray(value) ? (value as unknown[]) : [value])
        expectOneOf(who, "part", part, ["local", "column", "union"]);
    } else if (key === "headOffset") expectOneOf(who, key, value, ["mod", "block"]);
    else if (key === "of") {
      if (!Array.isArray(value) || value.length === 0)
        throw new ConfigError(who, `of is ${JSON.stringify(value)}; it must be a list of patterns`);
      for (const part of value as PatternConfig[]) checkPattern(part);
    }
  }
  for (const key of ["causal", "perHead"])
    if (values[key] !== undefined && typeof values[key] !== "boolean")
      throw new ConfigError(who, `${key} is ${JSON.stringify(values[key])}; it must be true or false`);
  if (config.kind === "bigbird" && (config.windowBlocks ?? 3) % 2 === 0)
    throw new ConfigError(who, `windowBlocks is ${config.windowBlocks}; it must be odd`);
  if (config.kind === "sparseFixed" && config.summary * (config.variants ?? 1) > config.block)
    throw new ConfigError(
      who,
      `summary ${config.summary} times variants ${config.variants ?? 1} exceeds block ${config.block}`,
    );
}
