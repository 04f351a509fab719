import { describe, expect, it } from "vitest";
import { ConfigError, randomNormal, ShapeError } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { deepseekMoe, DeepSeekMoe, deepseekRouter, type DeepSeekMoeOptions } from "../index.js";
import { addRow, gatedExpert, row, sigmoid, softmax, sum, times, topk } from "../moe.reference.js";

type Case = Omit<DeepSeekMoeOptions, "bias"> & { shared?: number; biased?: number };

const [N, D, E, F] = [7, 6, 8, 4];

/** Indices and weights of a token, step by step as in the papers. */
function route(c: Case, logits: number[], bias: ArrayLike<number>): { best: number[]; shares: number[] } {
  const v3 = (c.scoreFunction ?? "softmax") !== "softmax";
  const score = { softmax: Number, sigmoid, sqrtSoftplus: (v: number) => Math.sqrt(Math.log1p(Math.exp(v))) };
  const s = v3 ? logits.map(score[c.scoreFunction!]) : softmax(logits);
  let choice = s.map((v, e) => v + (c.biased === undefined ? 0 : bias[e]!));
  const { numGroups = 1, topkGroups = numGroups, groupScore = v3 ? "top2" : "max" } = c;
  if (numGroups > 1) {
    const width = E / numGroups;
    const scores = Array.from({ length: numGroups }, (_, g) => {
      const own = choice.slice(g * width, (g + 1) * width).sort((a, b) => b - a);
      return groupScore === "max" ? own[0]! : own[0]! + own[1]!;
    });
    const kept = topk(scores, topkGroups);
    choice = choice.map((v, e) => (kept.includes(Math.floor(e / width)) ? v : -Infinity));
  }
  const best = topk(choice, c.topK);
  let shares = best.map((e) => s[e]!);
  if (c.normTopkProb ?? v3) shares = shares.map((v, _, all) => v / (sum(all) + 1e-20));
  return { best, shares: shares.map((v) => v * (c.routedScalingFactor ?? 1)) };
}

describe("deepseekMoe", () => {
  const device = useGpu();

  it.each<Case>([
    { topK: 3, shared: 2 },
    { topK: 2, normTopkProb: true, routedScalingFactor: 16 },
    { topK: 3, numGroups: 4, topkGroups: 2, shared: 1 },
    { topK: 2, numGroups: 2, topkGroups: 1, groupScore: "top2" },
    { topK: 3, scoreFunction: "sigmoid", biased: 0.3, shared: 1, routedScalingFactor: 2.5 },
    { topK: 2, scoreFunction: "sigmoid", biased: -2, numGroups: 4, topkGroups: 2 },
    { topK: 4, scoreFunction: "sigmoid", biased: 0.2, numGroups: 4, topkGroups: 2, normTopkProb: false },
    { topK: 8, scoreFunction: "sigmoid", numGroups: 8, groupScore: "max" },
    { topK: 3, scoreFunction: "sqrtSoftplus", biased: 0.2, shared: 1 },
  ])("%j: float64 values and gradients", async (c) => {
    const { gpu } = device;
    const { shared = 0, biased, ...options } = c;
    const shift = operand([E], 8).data.map((v) => Math.fround(v * 0.3 + (biased ?? 0)));
    await checkOp(
      gpu,
      (...[x, w, wGate, wUp, wDown, sGate, sUp, sDown]) => {
        const r = deepseekMoe(
          x!,
          w!,
          { kind: "glu", wGate: wGate!, wUp: wUp!, wDown: wDown! },
          shared ? { wGate: sGate!, wUp: sUp!, wDown: sDown! } : undefined,
          { ...options, ...(biased === undefined ? {} : { bias: gpu.tensor(shift, [E]) }) },
        );
        return [r.out, r.weights];
      },
      (...[x, w, wGate, wUp, wDown, sGate, sUp, sDown]) => {
        const out = new Float64Array(N * D);
        const weights: number[] = [];
        for (let t = 0; t < N; t++) {
          const token = row(x!, t, D);
          const { best, shares } = route(c, times(w!, token, E), shift);
          weights.push(...shares);
          best.forEach((e, i) => {
            addRow(out, t, gatedExpert(token, e, wGate!, wUp!, wDown!, F), shares[i]!);
          });
          if (shared) addRow(out, t, gatedExpert(token, 0, sGate!, sUp!, sDown!, shared * F), 1);
        }
        return [...out, ...weights];
      },
      [
        operand([N, D], 1),
        operand([E, D], 2),
        operand([E, F, D], 3),
        operand([E, F, D], 4),
        operand([E, D, F], 5),
        ...(shared
          ? [operand([shared * F, D], 6), operand([shared * F, D], 7), operand([D, shared * F], 9)]
          : []),
      ],
      { h: 1e-5 },
    );
  });

  it("the choosing bias evens out the load without touching the weights' values", async () => {
    const { gpu } = device;
    const config = {
      ...{ dim: D, hiddenDim: F, numExperts: E, topK: 2, correctionBias: true },
      scoreFunction: "sigmoid",
    } as const;
    const drawn = DeepSeekMoe.init(gpu, config, { seed: 1 });
    const layer = new DeepSeekMoe(config, {
      ...drawn.parameters(),
      ...drawn.buffers(),
      // Scores far apart, so that the load is uneven at first.
      "gate.weight": randomNormal(gpu, [E, D], { seed: 1, std: 1 }),
    });
    const x = gpu.tensor(operand([1, 200, D], 3).data, [1, 200, D]);
    const load = async (): Promise<number> => {
      const indices = gpu.scope(() => layer.outputs(x).indices);
      const counts = new Array<number>(E).fill(0);
      for (const e of await indices.read()) counts[e]!++;
      gpu.scope(() => {
        layer.updateBias(indices, { updateSpeed: 0.01 });
      });
      indices.dispose();
      return Math.max(...counts) / 50;
    };
    const before = await load();
    const live = gpu.memory().liveBytes;
    let after = before;
    for (let step = 0; step < 60; step++) after = await load();
    expect(before).toBeGreaterThan(1.3);
    expect(after).toBeLessThan(1.15);
    expect(gpu.memory().liveBytes).toBe(live);
  });

  it("scores that round to 1 keep their order, alone and in groups by their best", async () => {
    const { gpu } = device;
    const [x, w] = [gpu.full([1, 1], 1), gpu.tensor([20, 25, 30, 40, 28, 22, 35, 33], [E, 1])];
    const experts = {
      kind: "glu",
      wGate: gpu.zeros([E, F, 1]),
      wUp: gpu.zeros([E, F, 1]),
      wDown: gpu.zeros([E, 1, F]),
    } as const;
    const options = { topK: 3, scoreFunction: "sigmoid", groupScore: "max" } as const;
    for (const [numGroups, best] of [
      [1, [3, 6, 7]],
      [4, [3, 6, 7]],
      [2, [3, 2, 1]],
    ] as const) {
      const topkGroups = Math.ceil(numGroups / 2);
      const { indices } = gpu.scope(() =>
        deepseekMoe(x, w, experts, undefined, { ...options, numGroups, topkGroups }),
      );
      expect(Array.from(await indices.read())).toEqual(best);
    }
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const [x, w] = [gpu.zeros([3, D]), gpu.zeros([E, D])];
    const experts = {
      kind: "glu",
      wGate: gpu.zeros([E, F, D]),
      wUp: gpu.zeros([E, F, D]),
      wDown: gpu.zeros([E, D, F]),
    } as const;
    const run = (options: DeepSeekMoeOptions) => () => deepseekMoe(x, w, experts, undefined, options);
    expect(run({ topK: 9 })).toThrow(/topK is 9/);
    expect(run({ topK: 1, numGroups: 3 })).toThrow(/8 experts do not make 3 equal groups/);
    expect(run({ topK: 3, numGroups: 4, topkGroups: 1 })).toThrow(
      /topK is 3; it must be an integer in 1\.\.2/,
    );
    expect(run({ topK: 1, numGroups: 8, scoreFunction: "sigmoid" })).toThrow(
      /at least two experts in a group/,
    );
    expect(run({ topK: 1, scoreFunction: "tanh" as never })).toThrow(ConfigError);
    expect(run({ topK: 1, bias: gpu.zeros([3]) })).toThrow(ShapeError);
    expect(run({ topK: 1, scaling: 2 } as never)).toThrow(/unknown key "scaling"/);
    const shared = { wGate: gpu.zeros([F, D]), wUp: gpu.zeros([F, D]), wDown: gpu.zeros([D, F + 1]) };
    expect(() => deepseekMoe(x, w, experts, shared, { topK: 1 })).toThrow(/shared wDown has shape \[6, 5\]/);
    expect(() => deepseekMoe(x, w, experts, { wGate: shared.wGate } as never, { topK: 1 })).toThrow(
      "deepseekMoe, shared experts: wUp is missing; it must be tensor",
    );
    const forced = gpu.zeros([3, 2], "i32");
    const choose = (options: object) => () => deepseekRouter(gpu.zeros([3, E]), { topK: 2, ...options });
    expect(choose({ forced: gpu.zeros([3, 1], "i32") })).toThrow(/forced has shape \[3, 1\]/);
    expect(choose({ forced, bias: gpu.zeros([E]) })).toThrow(/a choice that is forced has no bias/);
    expect(choose({ forced: gpu.zeros([3, 2]) })).toThrow(/forced/);
    expect(run({ topK: 1, normTopkProb: 1 as never })).toThrow("normTopkProb is 1; it must be true or false");
  });
});
