import { checkConfig, ConfigError, expectInteger, expectOneOf } from "@x/kernels";

interface Common {
  /** Hide keys after the query. */
  readonly causal?: boolean;
}

/** Which keys a query sees: a JSON object with a `kind`. i is the query's position, j the key's, d = i - j. */
export type Pattern =
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
  | (Common & { readonly kind: "union" | "intersection"; readonly of: readonly Pattern[] });

/** Half of a sparse Transformer pattern. */
export type Part = "local" | "column" | "union";

export interface PatternSize {
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  /** Position of the first query; default keys - queries. */
  readonly queryOffset?: number;
}

type Sees = (head: number, i: number, j: number) => boolean;

const wrap = Math.imul;

/** The finaliser of MurmurHash3, on unsigned 32-bit integers. */
export function mix32(x: number): number {
  let h = x >>> 0;
  h = wrap(h ^ (h >>> 16), 0x85ebca6b) >>> 0;
  h = wrap(h ^ (h >>> 13), 0xc2b2ae35) >>> 0;
  return (h ^ (h >>> 16)) >>> 0;
}

/** `count` of the candidates, drawn without replacement from the stream of (seed, head, row). */
export function drawBlocks(
  seed: number,
  head: number,
  row: number,
  candidates: readonly number[],
  count: number,
): number[] {
  let state = mix32(mix32(mix32(seed) ^ ((head + 0x9e3779b9) >>> 0)) ^ ((row + 0x7f4a7c15) >>> 0));
  const list = [...candidates];
  const taken = Math.min(count, list.length);
  for (let t = 0; t < taken; t++) {
    state = (state + 0x9e3779b9) >>> 0;
    const u = t + (mix32(state) % (list.length - t));
    [list[t], list[u]] = [list[u]!, list[t]!];
  }
  return list.slice(0, taken);
}

function floorDiv(a: number, b: number): number {
  return Math.floor(a / b);
}

function modulo(a: number, b: number): number {
  return ((a % b) + b) % b;
}

const KEYS: Readonly<Record<Pattern["kind"], readonly string[]>> = {
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
};

const CAUSAL_BY_DEFAULT: readonly Pattern["kind"][] = ["causal", "sink", "sparseStrided", "sparseFixed"];

function partOf(part: Part | readonly Part[] | undefined, head: number): Part {
  const own = Array.isArray(part) ? (part as readonly Part[])[head] : ((part as Part | undefined) ?? "union");
  expectOneOf("pattern", "part", own, ["local", "column", "union"]);
  return own;
}

const either = (part: Part, local: boolean, column: boolean): boolean =>
  part === "local" ? local : part === "column" ? column : local || column;

/** The rule of a pattern before `causal`. */
function rule(pattern: Pattern, size: PatternSize, causal: boolean): Sees {
  const who = `pattern ${pattern.kind}`;
  const integer = (name: string, value: unknown, min = 0): void => {
    expectInteger(who, name, value, min);
  };
  switch (pattern.kind) {
    case "full":
    case "causal":
      return () => true;
    case "slidingWindow": {
      const { left = -1, right = -1 } = pattern;
      integer("left", left, -1);
      integer("right", right, -1);
      return (_, i, j) => (left < 0 || i - j <= left) && (right < 0 || j - i <= right);
    }
    case "blockLocal": {
      const { block, back = 0, ahead = 0 } = pattern;
      integer("block", block, 1);
      return (_, i, j) =>
        floorDiv(j, block) >= floorDiv(i, block) - back && floorDiv(j, block) <= floorDiv(i, block) + ahead;
    }
    case "dilatedWindow": {
      const { left, right, dilation } = pattern;
      return (h, i, j) => {
        const r = typeof dilation === "number" ? dilation : dilation[h]!;
        return modulo(i - j, r) === 0 && i - j <= left * r && j - i <= right * r;
      };
    }
    case "global": {
      const tokens = new Set(pattern.tokens);
      return (_, i, j) => tokens.has(i) || tokens.has(j);
    }
    case "sink":
      integer("count", pattern.count);
      return (_, __, j) => j < pattern.count;
    case "random": {
      const { count, seed, block = 1, perHead = true } = pattern;
      integer("count", count);
      integer("seed", seed);
      integer("block", block, 1);
      const blocks = Math.ceil(size.keys / block);
      const drawn = new Map<string, Set<number>>();
      return (h, i, j) => {
        const [head, row] = [perHead ? h : 0, floorDiv(i, block)];
        const key = `${head},${row}`;
        let set = drawn.get(key);
        if (!set) {
          const candidates = Array.from({ length: causal ? Math.min(row + 1, blocks) : blocks }, (_, n) => n);
          drawn.set(key, (set = new Set(drawBlocks(seed, head, row, candidates, count))));
        }
        return set.has(floorDiv(j, block));
      };
    }
    case "bigbird": {
      const {
        block,
        windowBlocks = 3,
        globalFirst = 1,
        globalLast = 1,
        randomBlocks,
        seed,
        perHead = true,
      } = pattern;
      integer("block", block, 1);
      integer("windowBlocks", windowBlocks, 1);
      if (windowBlocks % 2 === 0)
        throw new ConfigError(who, `windowBlocks is ${windowBlocks}; it must be odd`);
      integer("randomBlocks", randomBlocks);
      integer("seed", seed);
      const blocks = Math.ceil(size.keys / block);
      const isGlobal = (J: number): boolean => J < globalFirst || J >= blocks - globalLast;
      const near = (I: number, J: number): boolean => Math.abs(I - J) <= (windowBlocks - 1) / 2;
      const drawn = new Map<string, Set<number>>();
      return (h, i, j) => {
        const [I, J] = [floorDiv(i, block), floorDiv(j, block)];
        if (isGlobal(I) || isGlobal(J) || near(I, J)) return true;
        const head = perHead ? h : 0;
        const key = `${head},${I}`;
        let set = drawn.get(key);
        if (!set) {
          const candidates = Array.from(
            { length: causal ? Math.min(I + 1, blocks) : blocks },
            (_, n) => n,
          ).filter((n) => !isGlobal(n) && !near(I, n));
          drawn.set(key, (set = new Set(drawBlocks(seed, head, I, candidates, randomBlocks))));
        }
        return set.has(J);
      };
    }
    case "sparseStrided": {
      const { stride, localKeys = stride + 1, part } = pattern;
      integer("stride", stride, 1);
      return (h, i, j) => either(partOf(part, h), i >= j && i - j < localKeys, modulo(i - j, stride) === 0);
    }
    case "sparseFixed": {
      const { block, summary, variants = 1, part } = pattern;
      integer("block", block, 1);
      integer("summary", summary, 1);
      if (summary * variants > block)
        throw new ConfigError(who, `summary ${summary} times variants ${variants} exceeds block ${block}`);
      return (h, i, j) => {
        const t = h % variants;
        const at = modulo(j, block);
        return either(
          partOf(part, h),
          floorDiv(i, block) === floorDiv(j, block),
          at >= block - summary * (t + 1) && at < block - summary * t,
        );
      };
    }
    case "dilatedSegment": {
      const { segment, dilation, headOffset = "mod" } = pattern;
      integer("segment", segment, 1);
      integer("dilation", dilation, 1);
      expectOneOf(who, "headOffset", headOffset, ["mod", "block"]);
      return (h, i, j) => {
        const s = headOffset === "mod" ? h % dilation : Math.floor(h / Math.ceil(size.heads / dilation));
        return (
          floorDiv(i, segment) === floorDiv(j, segment) &&
          modulo(modulo(i, segment), dilation) === s &&
          modulo(modulo(j, segment), dilation) === s
        );
      };
    }
    case "union":
    case "intersection": {
      const parts = pattern.of.map((p) => sees(p, size));
      return pattern.kind === "union"
        ? (h, i, j) => parts.some((p) => p(h, i, j))
        : (h, i, j) => parts.every((p) => p(h, i, j));
    }
  }
}

/** The whole rule of a pattern: may head h at position i see position j? */
export function sees(pattern: Pattern, size: PatternSize): Sees {
  expectOneOf("pattern", "kind", pattern.kind, Object.keys(KEYS) as Pattern["kind"][]);
  checkConfig(`pattern ${pattern.kind}`, pattern, ["kind", "causal", ...KEYS[pattern.kind]]);
  const causal = pattern.kind === "causal" || (pattern.causal ?? CAUSAL_BY_DEFAULT.includes(pattern.kind));
  const inner = rule(pattern, size, causal);
  return causal ? (h, i, j) => j <= i && inner(h, i, j) : inner;
}

/** The mask of a pattern, 1 where a query sees a key: [heads, queries, keys] row by row. */
export function maskMatrix(pattern: Pattern, size: PatternSize): Int32Array {
  const { heads, queries, keys, queryOffset = keys - queries } = size;
  const rule = sees(pattern, size);
  const out = new Int32Array(heads * queries * keys);
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < queries; i++)
      for (let j = 0; j < keys; j++) out[(h * queries + i) * keys + j] = rule(h, i + queryOffset, j) ? 1 : 0;
  return out;
}

/** The options of `attention` for patterns that its kernels skip blocks for; undefined for others. */
export function windowOf(
  pattern: Pattern,
):
  | { readonly causal: boolean; readonly window?: { readonly left: number; readonly right: number } }
  | undefined {
  if (pattern.kind === "full") return { causal: pattern.causal ?? false };
  if (pattern.kind === "causal") return { causal: true };
  if (pattern.kind !== "slidingWindow") return undefined;
  return {
    causal: pattern.causal ?? false,
    window: { left: pattern.left ?? -1, right: pattern.right ?? -1 },
  };
}
