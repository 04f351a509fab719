import { ConfigError } from "@x/kernels";
import { isCausal, type Part, type PatternConfig } from "./config.js";
import { drawBlocks } from "./random.js";
import {
  and,
  constant,
  div,
  eq,
  key,
  le,
  mod,
  or,
  query,
  sub,
  type Draws,
  type Int,
  type Rule,
} from "./rule.js";

/** What a pattern is laid over: random draws depend on the number of keys, some rules on the number of heads. */
export interface PatternExtent {
  readonly heads: number;
  readonly keys: number;
}

const distance = sub(query, key);
const back = sub(key, query);

const perHead = (who: string, what: string, given: readonly number[], heads: number): Int => {
  if (given.length !== heads)
    throw new ConfigError(who, `${what} has ${given.length} entries; there are ${heads} heads`);
  return { op: "perHead", values: given };
};

/** Local and column halves joined as each head's part says. */
function halves(
  who: string,
  part: Part | readonly Part[] | undefined,
  heads: number,
  local: Rule,
  column: Rule,
): Rule {
  if (!Array.isArray(part)) return part === "local" ? local : part === "column" ? column : or(local, column);
  const parts = part as readonly Part[];
  const has = (half: Part): Rule =>
    eq(
      perHead(
        who,
        "part",
        parts.map((p) => (p === half || p === "union" ? 1 : 0)),
        heads,
      ),
      1,
    );
  return or(and(has("local"), local), and(has("column"), column));
}

/** Draws that are made when asked for and kept. */
function draws(seed: number, count: number, byHead: boolean, candidates: (row: number) => number[]): Draws {
  const held = new Map<string, readonly number[]>();
  return {
    perHead: byHead,
    width: count,
    list: (h, row) => {
      const own = byHead ? h : 0;
      const name = `${own},${row}`;
      let list = held.get(name);
      if (!list)
        held.set(name, (list = drawBlocks(seed, own, row, candidates(row), count).sort((a, b) => a - b)));
      return list;
    },
  };
}

const upTo = (n: number): number[] => Array.from({ length: Math.max(0, n) }, (_, i) => i);

/** The rule of a pattern before its `causal`. */
function own(p: PatternConfig, extent: PatternExtent): Rule {
  const who = `pattern ${p.kind}`;
  const { heads, keys } = extent;
  switch (p.kind) {
    case "full":
    case "causal":
      return { op: "all" };
    case "slidingWindow": {
      const { left = -1, right = -1 } = p;
      const sides = [...(left >= 0 ? [le(distance, left)] : []), ...(right >= 0 ? [le(back, right)] : [])];
      return sides.length > 0 ? and(...sides) : { op: "all" };
    }
    case "blockLocal": {
      const [I, J] = [div(query, p.block), div(key, p.block)];
      return and(le(sub(I, J), p.back ?? 0), le(sub(J, I), p.ahead ?? 0));
    }
    case "dilatedWindow": {
      const { left, right, dilation } = p;
      if (typeof dilation === "number")
        return and(le(distance, left * dilation), le(back, right * dilation), eq(mod(distance, dilation), 0));
      const each = (factor: number): Int =>
        perHead(
          who,
          "dilation",
          dilation.map((r) => factor * r),
          heads,
        );
      return and(le(distance, each(left)), le(back, each(right)), eq(mod(distance, each(1)), 0));
    }
    case "global": {
      const set = [...new Set(p.tokens)].sort((a, b) => a - b);
      return or({ op: "in", x: query, set }, { op: "in", x: key, set });
    }
    case "sink":
      return le(key, p.count - 1);
    case "random": {
      const { count, seed, block = 1, perHead: byHead = true } = p;
      const blocks = Math.ceil(keys / block);
      const causal = isCausal(p);
      return {
        op: "drawn",
        row: div(query, block),
        block: div(key, block),
        draws: draws(seed, Math.min(count, blocks), byHead, (row) =>
          upTo(causal ? Math.min(row + 1, blocks) : blocks),
        ),
      };
    }
    case "bigbird": {
      const { block, windowBlocks = 3, globalFirst = 1, globalLast = 1, randomBlocks, seed } = p;
      const blocks = Math.ceil(keys / block);
      const reach = (windowBlocks - 1) / 2;
      const causal = isCausal(p);
      const [I, J] = [div(query, block), div(key, block)];
      const isGlobal = (n: number): boolean => n < globalFirst || n >= blocks - globalLast;
      const global = (x: Int): Rule[] => [le(x, globalFirst - 1), le(constant(blocks - globalLast), x)];
      return or(...global(I), ...global(J), and(le(sub(I, J), reach), le(sub(J, I), reach)), {
        op: "drawn",
        row: I,
        block: J,
        draws: draws(seed, Math.min(randomBlocks, blocks), p.perHead ?? true, (row) =>
          isGlobal(row)
            ? []
            : upTo(causal ? Math.min(row + 1, blocks) : blocks).filter(
                (n) => !isGlobal(n) && Math.abs(row - n) > reach,
              ),
        ),
      });
    }
    case "sparseStrided": {
      const { stride, localKeys = stride + 1 } = p;
      const local = and(le(back, 0), le(distance, localKeys - 1));
      return halves(who, p.part, heads, local, eq(mod(distance, stride), 0));
    }
    case "sparseFixed": {
      const { block, summary, variants = 1 } = p;
      const from = Array.from({ length: heads }, (_, h) => block - summary * ((h % variants) + 1));
      const first: Int = variants === 1 ? constant(block - summary) : { op: "perHead", values: from };
      const last: Int =
        variants === 1 ? constant(block - 1) : { op: "perHead", values: from.map((n) => n + summary - 1) };
      const at = mod(key, block);
      return halves(
        who,
        p.part,
        heads,
        eq(div(query, block), div(key, block)),
        and(le(first, at), le(at, last)),
      );
    }
    case "dilatedSegment": {
      const { segment, dilation, headOffset = "mod" } = p;
      const share = Math.ceil(heads / dilation);
      const offset: Int = {
        op: "perHead",
        values: upTo(heads).map((h) => (headOffset === "mod" ? h % dilation : Math.floor(h / share))),
      };
      return and(
        eq(div(query, segment), div(key, segment)),
        eq(mod(mod(query, segment), dilation), offset),
        eq(mod(mod(key, segment), dilation), offset),
      );
    }
    case "union":
      return or(...p.of.map((part) => buildRule(part, extent)));
    case "intersection":
      return and(...p.of.map((part) => buildRule(part, extent)));
    case "perHead":
      if (p.of.length !== heads)
        throw new ConfigError(who, `of has ${p.of.length} patterns; there are ${heads} heads`);
      return or(
        ...p.of.map((part, n) =>
          and(
            eq({ op: "perHead", values: upTo(heads).map((h) => (h === n ? 1 : 0)) }, 1),
            buildRule(part, extent),
          ),
        ),
      );
  }
}

/** The rule of a pattern. */
export function buildRule(p: PatternConfig, extent: PatternExtent): Rule {
  const rule = own(p, extent);
  return isCausal(p) ? and(le(back, 0), rule) : rule;
}
