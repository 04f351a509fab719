import { describe, expect, it } from "vitest";
import { DTypeError, ShapeError, type Tensor } from "@x/kernels";
import { numbers, relativeError, useGpu } from "@x/testing";
import { routingStats, type RoutingStats } from "../index.js";
import { softmax, sum, topk } from "../moe.reference.js";

const entropy = (p: number[]): number => -sum(p.map((v) => (v > 0 ? v * Math.log(v) : 0)));

/** The definitions, one token after another. */
function reference(
  indices: number[][],
  weights: number[][],
  probs: number[][],
  types: number[],
  E: number,
  C: number,
  top: number,
): Record<keyof RoutingStats, number[]> {
  const matrix = (rows: number, cols: number): number[][] =>
    Array.from({ length: rows }, () => new Array<number>(cols).fill(0));
  const [counts, importance] = [new Array<number>(E).fill(0), new Array<number>(E).fill(0)];
  const [byType, pairs] = [matrix(C, E), matrix(E, E)];
  indices.forEach((list, t) => {
    list.forEach((e, j) => {
      counts[e]!++;
      importance[e]! += weights[t]![j]!;
      byType[types[t]!]![e]!++;
      for (const other of list) pairs[e]![other]!++;
    });
  });
  const n = sum(counts);
  const load = counts.map((c) => c / n);
  const mean = n / E;
  const rows = byType.map(sum);
  const columns = counts;
  const over = (a: number, b: number): number => (b === 0 ? 0 : a / b);
  return {
    tokensPerExpert: counts,
    load,
    loadEntropy: [entropy(load)],
    loadEntropyNormalized: [entropy(load) / Math.log(E)],
    routerEntropy: [sum(probs.map(entropy)) / probs.length],
    importance,
    cv: [Math.sqrt(sum(counts.map((c) => (c - mean) ** 2)) / E) / mean],
    maxOverMean: [Math.max(...counts) / mean],
    deadExperts: [counts.filter((c) => c === 0).length],
    typeCounts: byType.flat(),
    typeShare: byType.flatMap((r, i) => r.map((c) => over(c, rows[i]!))),
    expertShare: byType.flatMap((r) => r.map((c, e) => over(c, columns[e]!))),
    topTypes: Array.from({ length: E }, (_, e) => {
      const column = byType.map((r) => r[e]!);
      const best = topk(column, Math.min(top, C)).map((i) => (column[i]! > 0 ? i : -1));
      return [...best, ...new Array<number>(top - best.length).fill(-1)];
    }).flat(),
    coActivation: pairs.flat(),
    mutualInformation: [
      sum(
        byType.flatMap((r, i) =>
          r.map((c, e) => (c === 0 ? 0 : (c / n) * Math.log((c * n) / (rows[i]! * columns[e]!)))),
        ),
      ),
    ],
  };
}

describe("routingStats", () => {
  const device = useGpu();

  it.each([
    [4, 2, 3, 2],
    [7, 3, 12, 3],
    [5, 1, 2, 4],
    [70, 8, 65, 5],
  ])("%i experts, %i choices, %i types, %i named: equals the definitions", async (E, k, C, topTypes) => {
    const { gpu } = device;
    const T = 65;
    const logits = Array.from({ length: T }, (_, t) => Array.from(numbers(E, t + 1)));
    // The last expert is never chosen.
    const indices = logits.map((l) => topk(l.slice(0, -1), Math.min(k, E - 1)));
    const probs = logits.map(softmax);
    const weights = indices.map((list, t) => list.map((e) => probs[t]![e]!));
    const types = Array.from({ length: T }, (_, t) => (t * t) % C);
    const K = indices[0]!.length;
    const stats = gpu.scope(() =>
      routingStats(
        gpu.tensor(indices.flat(), [1, T, K], "i32"),
        gpu.tensor(weights.flat(), [1, T, K]),
        gpu.tensor(probs.flat(), [1, T, E]),
        gpu.tensor(types, [1, T], "i32"),
        { numExperts: E, numTypes: C, topTypes },
      ),
    );
    const expected = reference(indices, weights, probs, types, E, C, topTypes);
    for (const [name, tensor] of Object.entries(stats) as [keyof RoutingStats, Tensor][]) {
      const error = relativeError(await tensor.read(), expected[name]);
      expect({ name, ok: error < 1e-5, error }).toMatchObject({ ok: true });
    }
  });

  it("the entropy of a router that is nearly sure is relative to its size", async () => {
    const { gpu } = device;
    for (const rest of [1e-2, 1e-3, 1e-4, 1e-5]) {
      const probs = Array.from(Float32Array.of(1 - rest, rest));
      const { routerEntropy } = gpu.scope(() =>
        routingStats(
          gpu.zeros([1, 1, 1], "i32"),
          gpu.full([1, 1, 1], 1),
          gpu.tensor(probs, [1, 1, 2]),
          gpu.zeros([1, 1], "i32"),
          { numExperts: 2, numTypes: 1 },
        ),
      );
      expect(relativeError(await routerEntropy.read(), [entropy(probs)])).toBeLessThan(1e-6);
    }
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const [indices, weights, probs] = [
      gpu.zeros([1, 4, 2], "i32"),
      gpu.zeros([1, 4, 2]),
      gpu.zeros([1, 4, 3]),
    ];
    const o = { numExperts: 3, numTypes: 2 };
    expect(() => routingStats(indices, weights, probs, gpu.zeros([1, 4]), o)).toThrow(DTypeError);
    expect(() => routingStats(indices, weights, probs, gpu.zeros([1, 5], "i32"), o)).toThrow(ShapeError);
    expect(() => routingStats(indices, weights, weights, gpu.zeros([1, 4], "i32"), o)).toThrow(
      /probs has shape/,
    );
    expect(() =>
      routingStats(indices, weights, probs, gpu.zeros([1, 4], "i32"), { ...o, topTypes: 0 }),
    ).toThrow(/topTypes is 0/);
  });
});
