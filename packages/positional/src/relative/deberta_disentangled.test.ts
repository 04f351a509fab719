import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { add, ConfigError, ShapeError, type Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { DebertaDisentangled } from "./deberta.js";
import {
  debertaBucket,
  debertaDisentangled,
  debertaIndices,
  type DebertaDisentangledOptions,
} from "./deberta_disentangled.js";
import { biasMatrix, dot, matrixOf, type Grid } from "../test-support.js";

/** The public code's bucket, with its logarithm nudged off the edges. */
function bucketReference(delta: number, buckets: number, maxDistance: number): number {
  const mid = Math.floor(buckets / 2);
  const n = Math.min(Math.abs(delta), maxDistance - 1);
  if (n <= mid) return Math.sign(delta) * n;
  return (
    Math.sign(delta) *
    (mid + Math.ceil((Math.log(n / mid) / Math.log((maxDistance - 1) / mid)) * (mid - 1) - 1e-9))
  );
}

describe("debertaDisentangled", () => {
  const device = useGpu();

  it("puts the edges of its buckets where the exact rule does", () => {
    const bucket = debertaBucket({ maxDistance: 512, positionBuckets: 256 });
    expect([
      bucket(0),
      bucket(128),
      bucket(-128),
      bucket(129),
      bucket(511),
      bucket(512),
      bucket(-100_000),
    ]).toEqual([0, 128, -128, 129, 255, 255, -255]);
    expect(debertaBucket({ maxDistance: 4 })(-77)).toBe(-77);
    // (M - 1) / mid = 4 and n / mid = 2: the logarithm's quotient is exactly a half of mid - 1.
    const edge = debertaBucket({ maxDistance: 21, positionBuckets: 10 });
    expect([edge(10), edge(11), edge(20)]).toEqual([7, 8, 9]);
  });

  it("follows the public rule for any counts and distances", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 4, max: 300 }),
        fc.integer({ min: 1, max: 600 }),
        fc.integer({ min: -1000, max: 1000 }),
        (positionBuckets, more, delta) => {
          const maxDistance = Math.floor(positionBuckets / 2) + 1 + more;
          const got = debertaBucket({ maxDistance, positionBuckets })(delta);
          expect(got + 0).toBe(bucketReference(delta, positionBuckets, maxDistance) + 0);
          expect(Math.abs(got)).toBeLessThan(positionBuckets);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("adds both position terms, either, or none, with gradients", { timeout: 300_000 }, async () => {
    const [D, modelDim] = [3, 4];
    const grids: Grid[] = [
      { batch: 2, heads: 2, queries: 3, keys: 3, offset: 0 },
      { batch: 1, heads: 2, queries: 2, keys: 6, offset: 4 },
    ];
    const configs: Omit<DebertaDisentangledOptions, "relEmbedding">[] = [
      { maxDistance: 2 },
      { maxDistance: 2, p2cIndex: "keyMinusQuery" },
      { maxDistance: 6, positionBuckets: 4 },
      { maxDistance: 3, c2p: false },
      { maxDistance: 3, p2c: false },
    ];
    for (const grid of grids)
      for (const config of configs) {
        const { batch, heads, queries, keys } = grid;
        const span = config.positionBuckets ?? config.maxDistance;
        const { c2p = true, p2c = true, maxDistance, positionBuckets } = config;
        const bucket = debertaBucket({ maxDistance, positionBuckets });
        const clip = (n: number): number => Math.min(2 * span - 1, Math.max(0, n));
        const scale = 1 / Math.sqrt(D * (1 + Number(c2p) + Number(p2c)));
        const project = (E: Float64Array, W: Float64Array, row: number, h: number): number[] =>
          Array.from({ length: D }, (_, c) => dot(E, row * modelDim, W, (h * D + c) * modelDim, modelDim));
        await checkOp(
          device.gpu,
          (q, k, relEmbedding, posKeyWeight, posQueryWeight) => {
            const { modifiers } = debertaDisentangled(q, k, {
              relEmbedding,
              posKeyWeight,
              posQueryWeight,
              ...config,
            });
            return modifiers
              .map((m) => biasMatrix(m, grid))
              .reduce<Tensor>((a, b) => add(a, b), q.gpu.zeros([]));
          },
          (q, k, E, wk, wq) =>
            matrixOf(grid, (b, h, i, j, d) => {
              const backwards =
                config.p2cIndex === "keyMinusQuery" ? clip(span - bucket(d)) : clip(bucket(d) + span);
              let sum = 0;
              if (c2p)
                sum += dot(
                  q,
                  ((b * heads + h) * queries + i) * D,
                  project(E, wk, clip(bucket(d) + span), h),
                  0,
                  D,
                );
              if (p2c) sum += dot(k, ((b * heads + h) * keys + j) * D, project(E, wq, backwards, h), 0, D);
              return scale * sum;
            }),
          [
            operand([batch, heads, queries, D], 1),
            operand([batch, heads, keys, D], 2),
            operand([2 * span, modelDim], 3),
            operand([heads * D, modelDim], 4),
            operand([heads * D, modelDim], 5),
          ],
        );
      }
    const q = device.gpu.zeros([1, 1, 2, D]);
    const none = debertaDisentangled(q, q, {
      relEmbedding: device.gpu.zeros([4, 2]),
      maxDistance: 2,
      c2p: false,
      p2c: false,
    });
    expect(none.scale).toBeCloseTo(1 / Math.sqrt(D), 12);
    expect(none.modifiers).toEqual([]);
  });

  it("is a component with the checkpoints' names", () => {
    const { gpu } = device;
    const settings = { numHeads: 2, headDim: 3, modelDim: 5, maxDistance: 4, positionBuckets: 4 };
    const deberta = DebertaDisentangled.init(gpu, settings);
    expect(Object.entries(deberta.parameters()).map(([name, t]) => [name, t.shape])).toEqual([
      ["rel_embeddings.weight", [8, 5]],
      ["pos_key_proj.weight", [6, 5]],
      ["pos_query_proj.weight", [6, 5]],
    ]);
    expect(
      new DebertaDisentangled(settings, deberta.parameters()).prepare(
        gpu.zeros([1, 2, 3, 3]),
        gpu.zeros([1, 2, 3, 3]),
      ).modifiers,
    ).toHaveLength(2);
    expect(() => new DebertaDisentangled(settings, {})).toThrow(/rel_embeddings.weight is missing/);
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const q = gpu.zeros([1, 2, 3, 4]);
    expect(() => debertaIndices({ maxDistance: 0 })).toThrow(/maxDistance is 0/);
    expect(() => debertaIndices({ maxDistance: 4, positionBuckets: 1 })).toThrow(/positionBuckets is 1/);
    expect(() => debertaIndices({ maxDistance: 4, p2cIndex: "both" as never })).toThrow(/p2cIndex is "both"/);
    expect(() => debertaDisentangled(q, q, { relEmbedding: gpu.zeros([7, 4]), maxDistance: 4 })).toThrow(
      ShapeError,
    );
    expect(() => debertaDisentangled(q, q, { relEmbedding: gpu.zeros([8, 4]), maxDistance: 4 })).toThrow(
      /the c2p term needs its projection/,
    );
    expect(() => debertaIndices({ max: 4 } as never)).toThrow(ConfigError);
  });
});
