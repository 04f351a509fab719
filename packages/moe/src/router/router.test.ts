import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, ShapeError, vjp } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { renormalizeWeights, router, type RouterOptions } from "../index.js";
import { row, sigmoid, softmax, softplus, times, topk } from "../moe.reference.js";

interface Case extends Omit<RouterOptions, "noise" | "wNoise" | "jitter" | "bias"> {
  readonly noisy?: boolean;
  readonly jittered?: boolean;
}

/** logits, probs and weights of tokens x [N, D]; operands x, wRouter, bias, noise, wNoise, jitter. */
function reference(N: number, D: number, E: number, c: Case) {
  return (...[x, w, bias, noise, wNoise, jitter]: Float64Array[]): number[] => {
    const [logits, probs, weights]: number[][] = [[], [], []];
    for (let t = 0; t < N; t++) {
      const token = row(x!, t, D).map((v, d) => (c.jittered ? v * jitter![t * D + d]! : v));
      const spread = times(wNoise!, token, E);
      const l = times(w!, token, E).map(
        (v, e) => v + bias![e]! + (c.noisy ? noise![t * E + e]! * softplus(spread[e]!) : 0),
      );
      const p = c.scoreFunction === "sigmoid" ? l.map(sigmoid) : softmax(l);
      const best = topk(c.order === "topkThenSoftmax" ? l : p, c.topK);
      let shares = best.map((e) => p[e]!);
      if (c.order === "topkThenSoftmax") shares = softmax(best.map((e) => l[e]!));
      else if (c.renormalize) {
        const total = shares.reduce((a, b) => a + b, 0) + (c.renormEps ?? 0);
        shares = shares.map((v) => v / total);
      }
      logits!.push(...l);
      probs!.push(...p);
      weights!.push(...shares);
    }
    return [...logits!, ...probs!, ...weights!];
  };
}

describe("router", () => {
  const device = useGpu();

  it.each<Case>([
    { topK: 2 },
    { topK: 1, scoreFunction: "sigmoid" },
    { topK: 3, renormalize: true, renormEps: 0.1 },
    { topK: 3, scoreFunction: "sigmoid", renormalize: true },
    { topK: 2, order: "topkThenSoftmax" },
    { topK: 2, order: "topkThenSoftmax", scoreFunction: "sigmoid", noisy: true },
    { topK: 2, noisy: true, jittered: true },
    { topK: 5, jittered: true, renormalize: true },
  ])("%j: float64 values and gradients", async (c) => {
    const [N, D, E] = [7, 6, 5];
    await checkOp(
      device.gpu,
      (...[x, w, bias, noise, wNoise, jitter]) => {
        const { noisy, jittered, ...options } = c;
        const r = router(x!, w!, {
          ...options,
          bias,
          ...(noisy ? { noise, wNoise } : {}),
          ...(jittered ? { jitter } : {}),
        });
        return [r.logits, r.probs, r.weights];
      },
      reference(N, D, E, c),
      [
        operand([N, D], 1),
        operand([E, D], 2),
        operand([E], 3),
        operand([N, E], 4),
        operand([E, D], 5),
        operand([N, D], 6),
      ],
      { h: 1e-5 },
    );
  });

  it("takes the lower index among equals, at any width", async () => {
    const { gpu } = device;
    for (const [E, topK] of [
      [6, 4],
      [63, 17],
      [300, 20],
    ] as const) {
      const { indices } = gpu.scope(() => router(gpu.zeros([2, 3, 4]), gpu.zeros([E, 4]), { topK }));
      const expected = Array.from({ length: 6 * topK }, (_, i) => i % topK);
      expect(Array.from(await indices.read())).toEqual(expected);
      indices.dispose();
    }
  });

  it.each(["softmax", "sigmoid"] as const)(
    "%s: scores that round to 1 or 0 keep their order",
    async (score) => {
      const { gpu } = device;
      const logits = [20, 30, -200, 25, 40, -150];
      const [x, w] = [gpu.full([1, 1], 1), gpu.tensor(logits, [6, 1])];
      const { indices } = gpu.scope(() => router(x, w, { topK: 6, scoreFunction: score }));
      expect(Array.from(await indices.read())).toEqual([4, 1, 3, 0, 5, 2]);
    },
  );

  it.each(["softmax", "sigmoid"] as const)(
    "%s: scores that round to 0 keep their shares when they are renormalised, with gradients",
    async (scoreFunction) => {
      const { gpu } = device;
      const x = gpu.full([1, 1], 1);
      const w = gpu.tensor([-300, -301, -400, -500], [4, 1]);
      const run = vjp(() => [router(x, w, { topK: 2, scoreFunction, renormalize: true }).weights], [w]);
      const p = 1 / (1 + Math.exp(-1));
      const [first, second] = await run.outputs[0]!.read();
      expect(first).toBeCloseTo(p, 6);
      expect(second).toBeCloseTo(1 - p, 6);
      const [dw] = run.pullback([gpu.tensor([1, 0], [1, 2])]);
      const slopes = [...(await dw!.read())];
      [p * (1 - p), -p * (1 - p), 0, 0].forEach((v, i) => {
        expect(slopes[i]).toBeCloseTo(v, 6);
      });
      const zeros = await renormalizeWeights(gpu.zeros([2, 3]), 0).read();
      expect([...zeros]).toEqual([0, 0, 0, 0, 0, 0]);
    },
  );

  it("weights sum to one where they should", async () => {
    const { gpu } = device;
    const extent = (max: number): fc.Arbitrary<number> => fc.integer({ min: 1, max });
    await fc.assert(
      fc.asyncProperty(
        fc.record({ tokens: extent(80), dim: extent(9), experts: extent(20), topK: extent(6) }),
        fc.constantFrom({ renormalize: true } as const, { order: "topkThenSoftmax" } as const),
        async ({ tokens, dim, experts, topK }, options) => {
          const k = Math.min(topK, experts);
          const { weights } = gpu.scope(() => {
            const make = (shape: number[], seed: number) => gpu.tensor(operand(shape, seed).data, shape);
            return router(make([tokens, dim], 1), make([experts, dim], 2), { topK: k, ...options });
          });
          const data = Array.from(await weights.read());
          weights.dispose();
          for (let t = 0; t < tokens; t++)
            expect(data.slice(t * k, (t + 1) * k).reduce((a, b) => a + b)).toBeCloseTo(1, 5);
        },
      ),
      { numRuns: 20, seed: 1 },
    );
  });

  it("refuses bad configurations and shapes by name", () => {
    const { gpu } = device;
    const [x, w] = [gpu.zeros([2, 4]), gpu.zeros([3, 4])];
    expect(() => router(x, w, { topK: 4 })).toThrow(/topK is 4; it must be an integer in 1\.\.3/);
    expect(() => router(x, w, { topK: 1, order: "topKFirst" as never })).toThrow(ConfigError);
    expect(() => router(x, w, { topK: 1, renormalise: true } as never)).toThrow(/did you mean "renormalize"/);
    expect(() => router(x, w, { topK: 1, renormalize: "yes" as never })).toThrow(
      'router: renormalize is "yes"; it must be true or false',
    );
    expect(() => router(x, w, null as never)).toThrow(/^router: the configuration .* is null/);
    expect(() => router(x, w, { topK: 1, noise: gpu.zeros([2, 3]) })).toThrow(/noise and wNoise/);
    expect(() => router(x, w, { topK: 1, noise: gpu.zeros([2, 4]), wNoise: w })).toThrow(ShapeError);
    expect(() => router(x, w, { topK: 1, jitter: gpu.zeros([2, 3]) })).toThrow(ShapeError);
    expect(() => router(x, gpu.zeros([3, 5]), { topK: 1 })).toThrow(ShapeError);
    expect(() => router(x, gpu.zeros([4]), { topK: 1 })).toThrow(ShapeError);
  });
});
