import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { T5Bias, t5Bias, t5Buckets, t5Index } from "./t5_bias.js";
import { biasMatrix, GRIDS, matrixOf } from "../test-support.js";

/** The rule as printed, with logarithms nudged off their edges. */
function bucketReference(
  relative: number,
  numBuckets: number,
  maxDistance: number,
  bidirectional: boolean,
): number {
  const nb = bidirectional ? Math.floor(numBuckets / 2) : numBuckets;
  const start = bidirectional && relative > 0 ? nb : 0;
  const n = bidirectional ? Math.abs(relative) : Math.max(-relative, 0);
  const e = Math.floor(nb / 2);
  if (n < e) return start + n;
  const t = Math.floor((Math.log(n / e) / Math.log(maxDistance / e)) * (nb - e) + 1e-9);
  return start + Math.min(nb - 1, e + t);
}

describe("t5Bias", () => {
  const device = useGpu();

  it("puts the edges of its buckets where the exact rule does", () => {
    const both = t5Buckets({ bidirectional: true });
    // 16, 32 and 64 lie exactly on edges; one less is one bucket below.
    for (const [n, bucket] of [
      [16, 10],
      [32, 12],
      [64, 14],
    ] as const) {
      expect([both(-n + 1), both(-n)]).toEqual([bucket - 1, bucket]);
      expect([both(n - 1), both(n)]).toEqual([16 + bucket - 1, 16 + bucket]);
    }
    expect([both(0), both(-7), both(-8), both(-128), both(-100_000), both(1), both(131_071)]).toEqual([
      0, 7, 8, 15, 15, 17, 31,
    ]);
    const causal = t5Buckets({ bidirectional: false });
    expect([causal(5), causal(0), causal(-15), causal(-16), causal(-127), causal(-128)]).toEqual([
      0, 0, 15, 16, 31, 31,
    ]);
  });

  it("follows the printed rule for any counts and distances", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 4, max: 64 }),
        fc.integer({ min: 40, max: 1000 }),
        fc.boolean(),
        fc.integer({ min: -2000, max: 2000 }),
        (numBuckets, maxDistance, bidirectional, relative) => {
          const bucket = t5Buckets({ numBuckets, maxDistance, bidirectional })(relative);
          expect(bucket).toBe(bucketReference(relative, numBuckets, maxDistance, bidirectional));
          if (bidirectional && numBuckets % 2 === 0) expect(bucket).not.toBe(numBuckets / 2);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("adds the table's entry, whose gradient sums over equal distances", async () => {
    for (const grid of GRIDS)
      for (const bidirectional of [true, false]) {
        const config = { numBuckets: 6, maxDistance: 5, bidirectional };
        const index = t5Index(config);
        await checkOp(
          device.gpu,
          (table) => biasMatrix(t5Bias(table, index), grid),
          (table) =>
            matrixOf(
              { ...grid, batch: 1 },
              (_, h, _i, _j, d) => table[bucketReference(-d, 6, 5, bidirectional) * grid.heads + h]!,
            ),
          [operand([6, grid.heads], 1)],
        );
      }
  });

  it("is a component whose weight is named as in the checkpoints", async () => {
    const bias = T5Bias.init(device.gpu, {
      bidirectional: true,
      numHeads: 3,
      numBuckets: 8,
      maxDistance: 20,
    });
    expect(Object.keys(bias.parameters())).toEqual(["weight"]);
    expect(bias.parameters()["weight"]!.shape).toEqual([8, 3]);
    const again = new T5Bias(
      { numHeads: 3, bidirectional: true, numBuckets: 8, maxDistance: 20 },
      bias.parameters(),
    );
    expect(await again.modifier().tensor.read()).toEqual(await bias.modifier().tensor.read());
  });

  it("refuses what does not fit, by name", () => {
    const index = t5Index({ bidirectional: true });
    expect(() => t5Bias(device.gpu.zeros([31, 2]), index)).toThrow(
      /table has shape \[31, 2\]; it must be \[32, heads\]/,
    );
    expect(() => t5Buckets({ bidirectional: true, numBuckets: 3 })).toThrow(/numBuckets is 3/);
    expect(() => t5Buckets({ bidirectional: false, maxDistance: 16 })).toThrow(/maxDistance is 16/);
    expect(() => t5Buckets({ bidirectional: true, buckets: 3 } as never)).toThrow(ConfigError);
    expect(() => t5Buckets({} as never)).toThrow(/bidirectional is missing/);
  });
});
