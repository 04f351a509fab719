import { Index, MetricKind, ScalarKind } from "usearch";
import { describe, expect, it } from "vitest";
import { checkOp, numbers, operand, useGpu } from "@x/testing";
import { attentionReference } from "../engine/attention.reference.js";
import {
  ApproximateIndex,
  attentionOutputs,
  ExactIndex,
  gatheredAttention,
  MemorizingAttention,
  mergeAttention,
  MultiHeadAttention,
  topkSearch,
  UnlimiformerAttention,
  type MemorizingConfig,
} from "../index.js";
import {
  expectCausal,
  expectConstantMemory,
  expectSame,
  inPieces,
  parametersOf,
  random,
} from "../test-support.js";

/** Positions of the k largest, rising; ties to the lower position. */
function best(scores: readonly number[], k: number, seen: (j: number) => boolean = () => true): number[] {
  const order = scores
    .map((_, j) => j)
    .filter(seen)
    .sort((a, b) => scores[b]! - scores[a]! || a - b)
    .slice(0, k)
    .sort((a, b) => a - b);
  return [...order, ...Array<number>(Math.min(k, scores.length) - order.length).fill(-1)];
}

describe("exact search", () => {
  const device = useGpu();

  it.each([
    [2, 3, 50, 7, 16],
    [1, 5, 333, 40, 64],
    [3, 1, 9, 20, 4],
    [1, 2, 700, 700, 256],
  ])("%i groups, %i queries, %i keys, k = %i, blocks of %i", async (groups, n, m, k, blockSize) => {
    const { gpu } = device;
    // Small integers, so that there are ties, and none of them is a matter of rounding.
    const whole = (size: number, seed: number): number[] =>
      Array.from(numbers(size, seed), (x) => Math.round(2 * x));
    const [q, keys] = [whole(groups * n * 4, 1), whole(groups * m * 4, 2)];
    const mask = Array.from(numbers(groups * m, 3), (x) => (x < 0.4 ? 1 : 0));
    const found = topkSearch(gpu.tensor(q, [groups, n, 4]), gpu.tensor(keys, [groups, m, 4]), k, {
      keyMask: gpu.tensor(mask, [groups, m], "i32"),
      block: blockSize,
    });
    const expected: number[] = [];
    for (let g = 0; g < groups; g++)
      for (let i = 0; i < n; i++) {
        const scores = Array.from({ length: m }, (_, j) =>
          [0, 1, 2, 3].reduce((sum, d) => sum + q[(g * n + i) * 4 + d]! * keys[(g * m + j) * 4 + d]!, 0),
        );
        expected.push(...best(scores, k, (j) => mask[g * m + j] === 1));
      }
    expect(Array.from(await found.indices.read())).toEqual(expected);
  });

  it("searches 100 000 vectors in memory that does not grow with them", async () => {
    const { gpu } = device;
    const [m, d] = [100_000, 16];
    const data = numbers(m * d, 5);
    const keys = gpu.tensor(data, [1, m, d]);
    const q = data.slice(77_777 * d, 77_778 * d);
    const query = gpu.tensor([...q, ...data.slice(0, d)], [1, 2, d]);
    const before = gpu.memory().liveBytes;
    const found = topkSearch(query, keys, 8);
    const after = gpu.memory();
    expect(after.liveBytes - before).toBeLessThan(4096);
    const dots = Array.from({ length: m }, (_, j) => q.reduce((sum, x, e) => sum + x * data[j * d + e]!, 0));
    expect(Array.from(await found.indices.read()).slice(0, 8)).toEqual(best(dots, 8));
    keys.dispose();
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const [q, k] = [random(gpu, [1, 2, 4], 1), random(gpu, [1, 9, 4], 2)];
    expect(() => topkSearch(q, random(gpu, [1, 9, 5], 2), 3)).toThrow(/keys has shape \[1, 9, 5\]/);
    expect(() => topkSearch(q, k, 0)).toThrow(/k is 0/);
    expect(() => topkSearch(q, k, 3, { count: 10 })).toThrow(/count is 10/);
    expect(topkSearch(q, k, 3, { count: 0 }).indices.shape).toEqual([1, 2, 0]);
  });

  it("an exact and an approximate index share one interface", async () => {
    const { gpu } = device;
    const dim = 8;
    const vectors = random(gpu, [600, dim], 1);
    const queries = random(gpu, [20, dim], 2);
    const exact = new ExactIndex(gpu, { dim, capacity: 64 });
    const library = new Index(dim, MetricKind.IP, ScalarKind.F32, 16, 128, 128);
    const approximate = new ApproximateIndex(gpu, library, { dim });
    for (const index of [exact, approximate]) {
      for (let part = 0; part < 3; part++)
        await index.add(
          gpu.tensor((await vectors.read()).slice(part * 200 * dim, (part + 1) * 200 * dim), [200, dim]),
        );
      expect(index.size).toBe(600);
    }
    const [a, b] = [await exact.search(queries, 10), await approximate.search(queries, 10)];
    const [one, two] = [Array.from(await a.indices.read()), Array.from(await b.indices.read())];
    let hits = 0;
    for (let row = 0; row < 20; row++)
      hits += one
        .slice(row * 10, row * 10 + 10)
        .filter((id) => two.slice(row * 10, row * 10 + 10).includes(id)).length;
    expect(hits / 200).toBeGreaterThan(0.9);
    expect(() => exact.find(random(gpu, [1, 3], 1), 2)).toThrow(/queries has shape \[1, 3\]/);
    exact.dispose();
    approximate.dispose();
  });
});

for (const [label, features] of [
  ["with the adapter's subgroups", {}],
  ["without subgroups", { subgroups: false }],
] as const)
  describe(`gathered attention ${label}`, () => {
    const device = useGpu({ features });

    it.each([
      [2, 4, 2, 3, 9, 4, 8, 5],
      [1, 3, 1, 2, 70, 5, 3, 66],
    ])(
      "B%i H%i Hkv%i n%i m%i d%i dv%i k%i: the float64 reference and its gradients",
      async (B, H, G, n, m, d, dv, k) => {
        // Distinct keys per row, and a last row without any.
        const indices = Int32Array.from({ length: B * H * n * k }, (_, at) => {
          const [row, t] = [Math.floor(at / k), at % k];
          return row === B * H * n - 1 || t % 4 === 3 ? -1 : (row * 5 + t * 11) % m;
        });
        const swap = (x: Float64Array, heads: number, rows: number, dim: number): Float64Array =>
          Float64Array.from({ length: x.length }, (_, at) => {
            const [e, h, i, b] = [
              at % dim,
              Math.floor(at / dim) % heads,
              Math.floor(at / dim / heads) % rows,
              Math.floor(at / dim / heads / rows),
            ];
            return x[((b * heads + h) * rows + i) * dim + e]!;
          });
        const back = (x: Float64Array, heads: number, rows: number, dim: number): Float64Array =>
          Float64Array.from({ length: x.length }, (_, at) => {
            const [e, i, h, b] = [
              at % dim,
              Math.floor(at / dim) % rows,
              Math.floor(at / dim / rows) % heads,
              Math.floor(at / dim / rows / heads),
            ];
            return x[((b * rows + i) * heads + h) * dim + e]!;
          });
        const distinct = new Set(Array.from(indices.slice(0, k)).filter((i) => i >= 0));
        expect(distinct.size).toBe(Array.from(indices.slice(0, k)).filter((i) => i >= 0).length);
        await checkOp(
          device.gpu,
          (q, keys, values) =>
            gatheredAttention(q, keys, values, device.gpu.tensor(indices, [B, H, n, k], "i32"), {
              scale: 0.7,
            }).out,
          (q, keys, values) =>
            back(
              attentionReference(swap(q, H, n, d), swap(keys, G, m, d), swap(values, G, m, dv), {
                batch: B,
                heads: H,
                kvHeads: G,
                queries: n,
                keys: m,
                dim: d,
                valueDim: dv,
                scale: 0.7,
                seen: (b, h, i, j) =>
                  indices.slice(((b * H + h) * n + i) * k, ((b * H + h) * n + i + 1) * k).includes(j),
              }),
              H,
              n,
              dv,
            ),
          [operand([B, H, n, d], 1), operand([B, G, m, d], 2), operand([B, G, m, dv], 3)],
        );
      },
    );
  });

describe("retrieval mechanisms", () => {
  const device = useGpu();

  it("attention over two halves of the keys merges to attention over all", async () => {
    const { gpu } = device;
    const q = random(gpu, [1, 2, 5, 4], 1);
    const [k, v] = [random(gpu, [1, 2, 9, 4], 2), random(gpu, [1, 2, 9, 4], 3)];
    const mask = (keep: (j: number) => boolean) => ({
      keyMask: gpu.tensor(
        Array.from({ length: 9 }, (_, j) => (keep(j) ? 1 : 0)),
        [1, 9],
        "i32",
      ),
    });
    const whole = attentionOutputs(q, k, v);
    const merged = mergeAttention(
      attentionOutputs(
        q,
        k,
        v,
        mask((j) => j < 4),
      ),
      attentionOutputs(
        q,
        k,
        v,
        mask((j) => j >= 4),
      ),
    );
    await expectSame(merged.out, whole.out);
    await expectSame(merged.lse, whole.lse);
    const empty = attentionOutputs(
      q,
      k,
      v,
      mask(() => false),
    );
    await expectSame(mergeAttention(empty, whole).out, whole.out);
    expect(Array.from(await mergeAttention(empty, empty).out.read()).every((x) => x === 0)).toBe(true);
  });

  const config: MemorizingConfig = {
    dim: 8,
    numHeads: 4,
    numKvHeads: 2,
    headDim: 4,
    topK: 3,
    combine: "gate",
    segmentLen: 4,
    memorySize: 9,
  };

  it.each(["gate", "joint"] as const)("memorizing, %s: decoding = the whole run, causal", async (combine) => {
    const { gpu } = device;
    const own = { ...config, combine, qkNorm: combine === "joint" };
    const layer = new MemorizingAttention(own, parametersOf(gpu, MemorizingAttention.plan(own)));
    const x = random(gpu, [2, 18, 8], 3);
    const whole = layer.outputs(x);
    for (const pieces of [[18], [5, 1, 1, 11], Array<number>(18).fill(1)]) {
      const state = layer.createState({ batch: 2 });
      await expectSame(
        inPieces(gpu, x, pieces, (piece) => layer.forward(piece, { state })),
        whole.out,
      );
      state.finishSegment();
      await expectSame(state.memory!.keys, whole.memory.keys);
      state.dispose();
    }
    await expectCausal(gpu, x, 9, (y) => layer.forward(y));
    const state = layer.createState({ batch: 2 });
    const alike = new MemorizingAttention(own, layer.parameters());
    expect(() => alike.forward(x, { state })).toThrow(/the state is of another layer/);
    expect(() => layer.forward(x, { state, memory: whole.memory })).toThrow(
      /memory is given; the state holds/,
    );
    expect(() => layer.outputs(x, { memory: { keys: x, values: x } })).toThrow(/memory\.keys has shape/);
    const token = random(gpu, [2, 1, 8], 1);
    for (let n = 0; n < 12; n++) gpu.scope(() => void layer.forward(token, { state }));
    // The memory is full: from here on nothing grows.
    await expectConstantMemory(gpu, 5, () => {
      for (let n = 0; n < 4; n++) layer.forward(token, { state });
    });
    state.dispose();
  });

  it("memorizing takes what an index of the caller's finds", async () => {
    const { gpu } = device;
    const own: MemorizingConfig = {
      dim: 8,
      numHeads: 2,
      numKvHeads: 1,
      headDim: 4,
      topK: 3,
      combine: "gate",
    };
    const layer = new MemorizingAttention(own, parametersOf(gpu, MemorizingAttention.plan(own)));
    const memory = { keys: random(gpu, [1, 1, 30, 4], 5), values: random(gpu, [1, 1, 30, 4], 6) };
    const x = random(gpu, [1, 6, 8], 3);
    const index = new ExactIndex(gpu, { dim: 4 });
    await index.add(memory.keys.reshape([30, 4]));
    const { indices } = await index.search(layer.queries(x).reshape([12, 4]), 3);
    const retrieved = indices.reshape([1, 2, 6, 3]);
    await expectSame(layer.forward(x, { memory, retrieved }), layer.forward(x, { memory }));
    index.dispose();
  });

  it("unlimiformer with topK >= states is cross-attention; its gradients too reach the states", async () => {
    const { gpu } = device;
    const own = { dim: 8, numHeads: 2, headDim: 4 };
    const config = { ...own, topK: 99, bias: true };
    const parameters = parametersOf(gpu, UnlimiformerAttention.plan(config));
    const layer = new UnlimiformerAttention(config, parameters);
    const cross = new MultiHeadAttention({ ...own, qkvBias: true, outBias: true }, parameters);
    const [x, hidden] = [random(gpu, [2, 3, 8], 1), random(gpu, [2, 11, 8], 2)];
    const keyMask = gpu.tensor(
      Array.from({ length: 22 }, (_, i) => (i < 8 ? 1 : 0)),
      [2, 11],
      "i32",
    );
    await expectSame(layer.forward(x, { context: hidden }), cross.forward(x, { context: hidden }));
    // The second row of the batch has no state: the output's bias alone.
    const masked = layer.outputs(x, { context: hidden, keyMask });
    const bias = Array.from(await parameters["o_proj.bias"]!.read());
    expect(Array.from(await masked.out.read()).slice(24, 32)).toEqual(bias);
    expect(
      Array.from(await masked.indices.read())
        .slice(66)
        .every((i) => i === -1),
    ).toBe(true);
    expect(layer.bytesPerState).toBe(32);
    expect(() => layer.forward(x, { context: random(gpu, [2, 11, 7], 1) })).toThrow(
      /context has shape \[2, 11, 7\]/,
    );
  });
});
