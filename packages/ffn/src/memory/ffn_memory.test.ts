import { describe, expect, it } from "vitest";
import { ConfigError, ShapeError, type Tensor } from "@x/kernels";
import { numbers, relativeError, useGpu } from "@x/testing";
import { ffn } from "../ffn.js";
import { ffnMemory, gluKeys, keyTriggers, topKeys, valueTokens } from "./ffn_memory.js";
import { gluFfn } from "../glu_ffn.js";

const device = useGpu();
const make = (shape: number[], seed: number): Tensor =>
  device.gpu.tensor(
    numbers(
      shape.reduce((a, b) => a * b),
      seed,
    ),
    shape,
  );
const read = async (t: Tensor): Promise<number[]> => Array.from(await t.read());

describe("the feed-forward block as a memory", () => {
  const [T, D, F, V] = [9, 6, 70, 33];

  it("is the block: all contributions sum to its output", async () => {
    const [x, w1, w2, b1, b2] = [
      make([T, D], 1),
      make([F, D], 2),
      make([D, F], 3),
      make([F], 4),
      make([D], 5),
    ];
    const weights = { w1, w2, b1, b2 };
    const memory = ffnMemory(x, weights, { activation: "gelu", topKeys: F, rankBy: "contribution" });
    expect(
      relativeError(await read(memory.out), await read(ffn(x, weights, { activation: "gelu" }))),
    ).toBeLessThan(1e-6);
    const parts = await read(memory.topContribution!);
    const bias = await read(b2);
    const sums = Array.from({ length: T * D }, (_, at) => {
      let s = bias[at % D]!;
      for (let k = 0; k < F; k++) s += parts[(Math.floor(at / D) * F + k) * D + (at % D)]!;
      return s;
    });
    expect(relativeError(sums, await read(memory.out))).toBeLessThan(1e-5);
    // |m_i| |value_i|, falling.
    const scores = await read(memory.topScore!);
    for (let i = 1; i < F; i++) expect(scores[i]!).toBeLessThanOrEqual(scores[i - 1]!);
  });

  it("takes the lower index on ties", async () => {
    const coefficients = device.gpu.tensor([1, 2, 2, 0, 2], [1, 5]);
    const top = topKeys(coefficients, make([2, 5], 1), 4);
    expect(await read(top.index)).toEqual([1, 2, 4, 0]);
    expect(await read(top.score)).toEqual([2, 2, 2, 1]);
  });

  it("numbers triggers over all leading axes", async () => {
    const pre = device.gpu.tensor([1, 5, 2, 4, 3, 6], [3, 1, 2]);
    const { index, score } = keyTriggers(pre, 2);
    expect(await read(index)).toEqual([2, 1, 2, 0]);
    expect(await read(score)).toEqual([3, 2, 6, 5]);
  });

  it("reads values in the vocabulary, in several tables where they are large", async () => {
    const [w2, embedding] = [make([D, F], 1), make([V, D], 2)];
    const { index, prob } = valueTokens(w2, embedding, 3);
    expect([index.shape, prob.shape]).toEqual([
      [F, 3],
      [F, 3],
    ]);
    const [values, table] = [await read(w2), await read(embedding)];
    const [at, p] = [await read(index), await read(prob)];
    for (const i of [0, 41, F - 1]) {
      const logits = Array.from({ length: V }, (_, v) => {
        let s = 0;
        for (let d = 0; d < D; d++) s += table[v * D + d]! * values[d * F + i]!;
        return s;
      });
      const z = logits.reduce((s, l) => s + Math.exp(l), 0);
      const best = logits.map((l, v) => [l, v] as const).sort(([a], [b]) => b - a);
      expect(at.slice(i * 3, i * 3 + 3)).toEqual(best.slice(0, 3).map(([, v]) => v));
      expect(p[i * 3]!).toBeCloseTo(Math.exp(best[0]![0]) / z, 5);
    }
    // So many values that they go through in pieces.
    const [many, words] = [8200, 600];
    const pieces = valueTokens(make([1, many], 3), make([words, 1], 4), 1);
    const whole = await read(pieces.index);
    const column = Array.from(numbers(words, 4));
    const [high, low] = [column.indexOf(Math.max(...column)), column.indexOf(Math.min(...column))];
    expect(whole).toEqual(Array.from(numbers(many, 3), (v) => (v > 0 ? high : low)));
  });

  it("reads gated blocks: m = g(gate) * up", async () => {
    const w = { wGate: make([F, D], 1), wUp: make([F, D], 2), wDown: make([D, F], 3) };
    const x = make([T, D], 4);
    const { coefficients } = gluKeys(x, w, "geglu");
    const { contribution } = topKeys(coefficients, w.wDown, F);
    const parts = await read(contribution);
    const sums = Array.from({ length: T * D }, (_, at) => {
      let s = 0;
      for (let k = 0; k < F; k++) s += parts[(Math.floor(at / D) * F + k) * D + (at % D)]!;
      return s;
    });
    expect(relativeError(sums, await read(gluFfn(x, w, { kind: "geglu" })))).toBeLessThan(1e-5);
  });

  it("refuses what it cannot do", () => {
    const { gpu } = device;
    const w = { w1: gpu.zeros([F, D]), w2: gpu.zeros([D, F]) };
    const x = gpu.zeros([T, D]);
    expect(() => ffnMemory(x, w, { topTokens: 2 })).toThrow(/there is no embedding/);
    expect(() => ffnMemory(x, w, { topKeys: F + 1 })).toThrow(ConfigError);
    expect(() => ffnMemory(x, w, { rankBy: "size" as never, topKeys: 1 })).toThrow(/rankBy is "size"/);
    expect(() => topKeys(gpu.zeros([T, F]), gpu.zeros([D, F + 1]), 2)).toThrow(ShapeError);
    expect(() => valueTokens(w.w2, gpu.zeros([V, D + 1]), 2)).toThrow(ShapeError);
  });
});
