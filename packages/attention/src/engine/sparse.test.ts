import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { numbers, product, relativeError, useGpu } from "@x/testing";
import { attention, maskMatrix, slidingWindow, type PatternConfig } from "../index.js";
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
