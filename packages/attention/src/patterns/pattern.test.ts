import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, svgTextWidth } from "@x/kernels";
import {
  bigBird,
  blockLocal,
  causal,
  checkDecodable,
  dilatedWindow,
  drawBlocks,
  full,
  globalTokens,
  mix32,
  Pattern,
  pattern,
  perHead,
  randomBlocks,
  sink,
  slidingWindow,
  sparseFixed,
  sparseStrided,
  windowOf,
  type PatternConfig,
} from "./index.js";
import { anyPattern } from "./test-support.js";
import { blocksOf, blocksOfClass, visits, type Side } from "./visits.js";

describe("patterns", () => {
  it("draw the same blocks on every machine", () => {
    expect(mix32(1)).toBe(1364076727);
    expect(mix32(0xffffffff)).toBe(2180083513);
    expect(drawBlocks(7, 2, 5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 4)).toEqual([3, 7, 1, 2]);
  });

  it("say whether they hide the future, and do", () => {
    const parts: Pattern[] = [
      causal(),
      full(),
      slidingWindow(16),
      slidingWindow(3, 0),
      dilatedWindow(2, 0, 3),
      blockLocal(4),
      globalTokens(2),
      sink(2),
      pattern({ kind: "sink", count: 2, causal: false }),
      sparseStrided(3),
      bigBird({ block: 2, randomBlocks: 1, seed: 1, causal: true }),
    ];
    const composed = parts.flatMap((a) => parts.flatMap((b) => [a.and(b), a.or(b), perHead([a, b])]));
    for (const p of [
      ...parts,
      ...composed,
      slidingWindow(16).or(globalTokens(2)).and(causal()),
      causal().and(slidingWindow(16)).or(globalTokens(2)),
    ]) {
      const sees = p.sees({ heads: 2, queries: 12 });
      let future = false;
      for (let h = 0; h < 2; h++)
        for (let i = 0; i < 12; i++) for (let j = i + 1; j < 12; j++) future ||= sees(h, i, j);
      expect(p.causal, JSON.stringify(p)).toBe(!future);
    }
  });

  it("compose, and are their JSON form in both directions", () => {
    const p = causal().and(slidingWindow(3, 0)).or(globalTokens(2));
    expect(JSON.parse(JSON.stringify(p))).toEqual({
      kind: "union",
      of: [
        { kind: "intersection", of: [{ kind: "causal" }, { kind: "slidingWindow", left: 3, right: 0 }] },
        { kind: "global", tokens: [0, 1] },
      ],
    });
    expect(pattern(p.toJSON()).mask({ queries: 9 })).toEqual(p.mask({ queries: 9 }));
    const sees = p.sees({ queries: 9 });
    expect([sees(0, 8, 5), sees(0, 8, 4), sees(0, 8, 1), sees(0, 1, 8)]).toEqual([true, false, true, true]);
  });

  it("choose by head", () => {
    const p = perHead([causal(), slidingWindow(0)]);
    const sees = p.sees({ heads: 2, queries: 4 });
    expect([sees(0, 3, 0), sees(1, 3, 0), sees(1, 3, 3)]).toEqual([true, false, true]);
    expect(() => p.mask({ heads: 3, queries: 4 })).toThrow(/of has 2 patterns; there are 3 heads/);
  });

  it("know which of them are windows", () => {
    expect(windowOf(causal().and(slidingWindow(5, 2)).and({ kind: "slidingWindow", left: 3 }))).toEqual({
      causal: true,
      window: { left: 3, right: 2 },
    });
    expect(windowOf(dilatedWindow(2, 2, 2))).toBeUndefined();
  });

  it("refuse what is not a pattern, and what decoding would change", () => {
    expect(() => new Pattern({ kind: "windw" } as never)).toThrow(/kind is "windw"/);
    expect(() => new Pattern({ kind: "causal", left: 1 } as never)).toThrow(ConfigError);
    expect(() => new Pattern({ kind: "blockLocal" } as never)).toThrow(/block is missing/);
    expect(() => slidingWindow(-2)).toThrow(/left is -2/);
    expect(() => sparseFixed(4, 3, { variants: 2 })).toThrow(/summary 3 times variants 2 exceeds block 4/);
    expect(() => bigBird({ block: 4, randomBlocks: 1, seed: 1, windowBlocks: 2 })).toThrow(/must be odd/);
    expect(() => globalTokens([1.5])).toThrow(/tokens/);
    expect(() => randomBlocks(1, 2 ** 32)).toThrow(/seed is 4294967296; it must be an integer in 0/);
    expect(() => full().mask({ queries: 2, queryOffset: 0.5 })).toThrow(/queryOffset is 0.5/);
    expect(() => full().mask({ queries: 2, offset: 1 } as never)).toThrow(/unknown key "offset"/);
    expect(() => {
      checkDecodable("model", causal().and(randomBlocks(2, 1)));
    }).toThrow(/set causal: true to decode/);
    checkDecodable("model", causal().and(randomBlocks(2, 1, { causal: true })));
  });

  it("visit exactly the blocks with a visible pair, in any order of rows and columns", () => {
    const sizes = fc.record({
      n: fc.integer({ min: 1, max: 70 }),
      m: fc.integer({ min: 1, max: 80 }),
      shift: fc.integer({ min: -6, max: 20 }),
      stride: fc.integer({ min: 1, max: 6 }),
      columns: fc.constantFrom(8, 16, 32),
      group: fc.constantFrom(1, 2),
    });
    fc.assert(
      fc.property(anyPattern(2), sizes, fc.boolean(), (config, s, transposed) => {
        const offset = s.m - s.n + (s.shift > 6 ? 0 : s.shift);
        const p = new Pattern(config);
        const sees = p.sees({ heads: 2, queries: s.n, keys: s.m });
        const heads = s.group === 2 ? [0, 1] : [1];
        const keys = (block: number): Side => ({
          stride: s.stride,
          first: 0,
          count: s.m,
          block,
          shared: 1,
        });
        const queries = (block: number): Side => ({
          stride: s.stride,
          first: offset,
          count: s.n,
          block,
          shared: s.group,
        });
        const [rows, columns] = transposed ? [keys(8), queries(s.columns)] : [queries(8), keys(s.columns)];
        const lists = visits(p.rule(2, s.m), heads, rows, columns, transposed);
        const at = (side: Side, block: number, from = 0, to = side.block): number[] => {
          const span = blocksOfClass(side);
          const residue = Math.floor(block / span);
          const out: number[] = [];
          for (let n = from; n < to; n++) {
            const place = (block % span) * side.block + n;
            const index = residue + Math.floor(place / side.shared) * side.stride;
            if (index < side.count) out.push(side.first + index);
          }
          return out;
        };
        lists.forEach((list, r) => {
          const blocks = blocksOf(columns);
          for (let c = 0; c < blocks; c++) {
            const run = list.find(({ begin, end }) => begin <= c && c < end);
            const pairs = heads.flatMap((h) =>
              at(rows, r).flatMap((a) =>
                at(columns, c).map((b) => (transposed ? sees(h, b, a) : sees(h, a, b))),
              ),
            );
            expect(run !== undefined, `block ${r},${c} of ${JSON.stringify(config)}`).toBe(
              pairs.includes(true),
            );
            if (!run) continue;
            const hidden = (of: readonly number[]): boolean =>
              heads.every((h) =>
                at(rows, r).every((a) => of.every((b) => !(transposed ? sees(h, b, a) : sees(h, a, b)))),
              );
            if (c === run.begin) expect(hidden(at(columns, c, 0, run.skip))).toBe(true);
            if (c === run.end - 1)
              expect(hidden(at(columns, c, columns.block - run.spare, columns.block))).toBe(true);
            if (!run.whole) continue;
            expect(pairs.includes(false)).toBe(false);
            expect(at(columns, c)).toHaveLength(columns.block);
          }
        });
      }),
      { numRuns: 150 },
    );
  });

  it("find the blocks of long sequences from the rule, not from the matrix", () => {
    const n = 1 << 17;
    const p = slidingWindow(255, 0).or(globalTokens(1));
    expect(p.share({ queries: n })).toBeLessThan(0.01);
    const config: PatternConfig = { kind: "bigbird", block: 64, randomBlocks: 3, seed: 5 };
    expect(new Pattern(config).share({ queries: 4096 })).toBeCloseTo(0.15, 1);
  });

  it("draw themselves", () => {
    expect(causal().and(slidingWindow(1)).text({ queries: 3 })).toBe("■ · ·\n■ ■ ·\n· ■ ■");
    const svg = slidingWindow(1).svg({ queries: 4 }, { blocks: [2, 2], title: "a < b" });
    expect(svg).toMatch(/^<svg .*<\/svg>\n$/s);
    expect(svg).toContain("a &#60; b");
    expect(svg).toMatch(/>key, 0 to 3<.*/);
    expect(svg).toMatch(/>query, 0 to 3</);
    // A title that is longer than the cells widens the picture.
    const title = "slidingWindow(1).or(globalTokens(2)).and(causal())";
    const [, width] = /viewBox="0 0 (\d+) /.exec(slidingWindow(1).svg({ queries: 4 }, { title }))!;
    expect(Number(width)).toBeGreaterThan(svgTextWidth(title, 13));
  });
});
