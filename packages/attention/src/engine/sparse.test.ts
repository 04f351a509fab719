import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RelativeIndex, vjp, type Tensor } from "@x/kernels";
import { numbers, product, relativeError, useGpu } from "@x/testing";
import { attention, attentionOutputs, maskMatrix, slidingWindow, type PatternConfig } from "../index.js";
import { anyPattern } from "../patterns/test-support.js";

const HEADS = 4;

interface Shape {
  readonly n: number;
  readonly m: number;
  readonly shift: number;
  readonly kvHeads: number;
  readonly causal: boolean;
  readonly extra: "none" | "keyMask" | "docs";
}

const shapes: fc.Arbitrary<Shape> = fc.record({
  n: fc.integer({ min: 1, max: 70 }),
  m: fc.integer({ min: 1, max: 75 }),
  shift: fc.constantFrom(0, 0, -3, 4),
  kvHeads: fc.constantFrom(1, 2, 4),
  causal: fc.boolean(),
  extra: fc.constantFrom("none" as const, "none" as const, "keyMask" as const, "docs" as const),
});

for (const [label, features, runs] of [
  ["with the adapter's subgroups", {}, 12],
  ["without subgroups", { subgroups: false }, 2],
] as const)
  describe(`sparse = masked dense ${label}`, () => {
    const device = useGpu({ features });

    /** Output and gradients with a pattern against those with its mask. */
    async function check(config: PatternConfig, s: Shape): Promise<void> {
      const { gpu } = device;
      const [d, dv, batch] = [8, 12, 2];
      const queryOffset = s.m - s.n + (s.extra === "docs" ? Math.min(0, s.shift) : s.shift);
      const make = (shape: number[], seed: number): Tensor =>
        gpu.tensor(numbers(product(shape), seed), shape);
      const ids = (of: (n: number) => number): Tensor =>
        gpu.tensor(
          Int32Array.from({ length: batch * s.m }, (_, n) => of(n)),
          [batch, s.m],
          "i32",
        );
      const q = make([batch, HEADS, s.n, d], 1);
      const k = make([batch, s.kvHeads, s.m, d], 2);
      const v = make([batch, s.kvHeads, s.m, dv], 3);
      const g = make([batch, HEADS, s.n, dv], 4);
      const docsAllowed = s.extra === "docs" && queryOffset >= 0;
      const common = {
        queryOffset,
        causal: s.causal,
        keyMask: s.extra === "keyMask" ? ids((n) => (n % 5 === 2 ? 0 : 1)) : undefined,
        docs: docsAllowed ? ids((n) => Math.floor((n % s.m) / 9)) : undefined,
      };
      const mask = gpu.tensor(
        maskMatrix(config, { heads: HEADS, queries: s.n, keys: s.m, queryOffset }),
        [HEADS, s.n, s.m],
        "i32",
      );
      const results = [{ pattern: config }, { mask }].map((own) => {
        const run = vjp(() => [attention(q, k, v, { ...common, ...own })], [q, k, v]);
        return [run.outputs[0]!, ...run.pullback([g])];
      });
      for (const [i, name] of ["out", "dq", "dk", "dv"].entries()) {
        const [sparse, dense] = await Promise.all(results.map((r) => r[i]!.read()));
        expect(relativeError(sparse!, dense!), `${name} of ${JSON.stringify({ config, ...s })}`).toBeLessThan(
          2e-5,
        );
      }
      for (const t of [q, k, v, g, mask, common.keyMask, common.docs, ...results.flat()]) t?.dispose();
    }

    it("for random patterns and shapes, with gradients", { timeout: 600_000 }, async () => {
      await fc.assert(fc.asyncProperty(anyPattern(HEADS, false), shapes, check), {
        numRuns: runs,
        seed: 4,
      });
    });

    it("where rows and columns are sorted by residue", { timeout: 300_000 }, async () => {
      const shape: Shape = { n: 70, m: 75, shift: 0, kvHeads: 2, causal: false, extra: "none" };
      await check({ kind: "dilatedWindow", left: 3, right: 2, dilation: 5 }, shape);
      await check({ kind: "dilatedWindow", left: 3, right: 2, dilation: [1, 1, 6, 6] }, shape);
    });

    it(
      "in the gradients of relative terms and biases, which visit no other blocks either",
      { timeout: 300_000 },
      async () => {
        const { gpu } = device;
        const [n, m, kvHeads] = [37, 75, 2];
        const make = (shape: number[], seed: number): Tensor =>
          gpu.tensor(numbers(product(shape), seed), shape);
        for (const heads of [4, 6]) {
          const [q, k, v] = [
            make([1, heads, n, 8], 1),
            make([1, kvHeads, m, 8], 2),
            make([1, kvHeads, m, 8], 3),
          ];
          const index = new RelativeIndex(7, (d) => Math.min(6, Math.abs(d)));
          const tables = {
            h: make([heads, 7], 4),
            bhk: make([1, heads, m, 7], 5),
            bhq: make([1, heads, n, 7], 6),
          };
          const bias = make([1, heads, n, m], 7);
          for (const config of [
            { kind: "slidingWindow", left: 9, right: 3 },
            { kind: "dilatedWindow", left: 3, right: 2, dilation: 5, causal: true },
            {
              kind: "union",
              of: [
                { kind: "slidingWindow", left: 4, right: 0 },
                { kind: "global", tokens: [1, 40] },
              ],
            },
          ] as const) {
            const mask = gpu.tensor(maskMatrix(config, { heads, queries: n, keys: m }), [heads, n, m], "i32");
            const results = await Promise.all(
              [{ pattern: config }, { mask }].map(async (own) => {
                const run = vjp(() => {
                  const { out, weightSums } = attentionOutputs(q, k, v, {
                    ...own,
                    bias,
                    modifiers: (["h", "bhk", "bhq"] as const).map((axes) => ({
                      kind: "relative",
                      name: axes,
                      axes,
                      tensor: tables[axes],
                      index,
                    })),
                    weightSums: index,
                  });
                  return [out, weightSums!];
                }, [tables.h, tables.bhk, tables.bhq, bias]);
                const all = [
                  ...run.outputs,
                  ...run.pullback(run.outputs.map((t, s) => make([...t.shape], 8 + s))),
                ];
                return Promise.all(all.map(async (t) => t.read()));
              }),
            );
            for (const [i, name] of ["out", "sums", "dh", "dbhk", "dbhq", "dbias"].entries())
              expect(
                relativeError(results[0]![i]!, results[1]![i]!),
                `${name} of ${heads} heads, ${JSON.stringify(config)}`,
              ).toBeLessThan(2e-5);
          }
          index.dispose();
        }
      },
    );

    it("holds no memory of the size of the matrix", { timeout: 300_000 }, async () => {
      const { gpu } = device;
      const n = 1024;
      const x = gpu.tensor(numbers(n * 8, 1), [1, 1, n, 8]);
      const before = gpu.memory().liveBytes;
      const run = vjp(
        () => [attention(x, x, x, { pattern: slidingWindow(3).or({ kind: "global", tokens: [0] }) })],
        [x],
      );
      const [dx] = run.pullback(run.outputs);
      await gpu.sync();
      expect(gpu.memory().liveBytes - before).toBeLessThan(n * n);
      for (const t of [...run.outputs, dx!, x]) t.dispose();
    });
  });
