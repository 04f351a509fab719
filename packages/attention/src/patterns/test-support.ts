import fc from "fast-check";
import type { PatternConfig } from "./config.js";

/** Any pattern over a number of heads, parts joined up to two deep. For tests. */
export function anyPattern(heads: number, deep = true): fc.Arbitrary<PatternConfig> {
  const up = (max: number, min = 0): fc.Arbitrary<number> => fc.integer({ min, max });
  const flag = fc.boolean();
  const perHead = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T[]> =>
    fc.array(of, { minLength: heads, maxLength: heads });
  const half = fc.constantFrom("local" as const, "column" as const, "union" as const);
  const part = fc.oneof(half, perHead(half));
  const kind = <K extends PatternConfig["kind"]>(name: K): fc.Arbitrary<K> => fc.constant(name);
  const simple: fc.Arbitrary<PatternConfig>[] = [
    fc.record({ kind: kind("slidingWindow"), left: up(20, -1), right: up(20, -1), causal: flag }),
    fc.record({ kind: kind("blockLocal"), block: up(20, 1), back: up(2), ahead: up(2), causal: flag }),
    fc.record({
      kind: kind("dilatedWindow"),
      left: up(6),
      right: up(6),
      dilation: fc.oneof(up(6, 1), perHead(up(6, 1))),
      causal: flag,
    }),
    fc.record({ kind: kind("global"), tokens: fc.array(up(90), { maxLength: 3 }), causal: flag }),
    fc.record({ kind: kind("sink"), count: up(5), causal: flag }),
    fc.record({
      kind: kind("random"),
      count: up(4),
      seed: up(99),
      block: up(9, 1),
      perHead: flag,
      causal: flag,
    }),
    fc.record({
      kind: kind("bigbird"),
      block: up(12, 1),
      windowBlocks: fc.constantFrom(1, 3),
      globalFirst: up(2),
      globalLast: up(2),
      randomBlocks: up(3),
      seed: up(99),
      perHead: flag,
      causal: flag,
    }),
    fc.record({ kind: kind("sparseStrided"), stride: up(20, 1), localKeys: up(20), part, causal: flag }),
    fc.record({
      kind: kind("sparseFixed"),
      block: up(24, 8),
      summary: up(4, 1),
      variants: up(2, 1),
      part,
      causal: flag,
    }),
    fc.record({
      kind: kind("dilatedSegment"),
      segment: up(40, 1),
      dilation: up(5, 1),
      headOffset: fc.constantFrom("mod" as const, "block" as const),
      causal: flag,
    }),
  ];
  const one = fc.oneof(...simple);
  if (!deep) return one;
  return fc.oneof(
    { weight: 3, arbitrary: one },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constantFrom("union" as const, "intersection" as const),
        of: fc.array(one, { minLength: 1, maxLength: 2 }),
        causal: flag,
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: kind("perHead"), of: perHead(one), causal: flag }),
    },
  );
}
