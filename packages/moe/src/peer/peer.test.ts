import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, matmul, ShapeError, vjp } from "@x/kernels";
import { checkOp, numbers, operand, relativeError, useGpu } from "@x/testing";
import { peer, Peer, peerKeys, productKeyTopk, type PeerOptions } from "../index.js";
import { addRow, gelu, row, sigmoid, silu, softmax, sum, times, topk } from "../moe.reference.js";

/** Best of all n^2 sums for one query. */
function exhaustive(query: number[], keys: ArrayLike<number>, offset: number, n: number, k: number) {
  const d = query.length / 2;
  const first = times(keys, query.slice(0, d), n, offset);
  const second = times(keys, query.slice(d), n, offset + n * d);
  const all = first.flatMap((a) => second.map((b) => a + b));
  const indices = topk(all, k);
  return { indices, scores: indices.map((i) => all[i]!) };
}

describe("productKeyTopk", () => {
  const device = useGpu();

  it("equals the exhaustive search, ties included", async () => {
    const { gpu } = device;
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          N: fc.integer({ min: 1, max: 9 }),
          H: fc.integer({ min: 1, max: 3 }),
          n: fc.constantFrom(1, 4, 7, 33),
          d: fc.integer({ min: 1, max: 4 }),
          k: fc.integer({ min: 1, max: 33 }),
          own: fc.boolean(),
          // Keys of few values make many sums equal, exactly.
          coarse: fc.boolean(),
          seed: fc.integer({ min: 1, max: 99 }),
        }),
        async ({ N, H, n, d, k, own, coarse, seed }) => {
          const K = Math.min(k, n);
          const values = (size: number, at: number): Float64Array =>
            numbers(size, seed + at).map((v) => (coarse ? Math.round(2 * v) : Math.fround(v)));
          const query = values(N * H * 2 * d, 1);
          const keys = values((own ? H : 1) * 2 * n * d, 2);
          const found = gpu.scope(() =>
            productKeyTopk(
              gpu.tensor(query, [1, N, H, 2 * d]),
              gpu.tensor(keys, own ? [H, 2, n, d] : [2, n, d]),
              { topK: K },
            ),
          );
          const [scores, indices] = [await found.scores.read(), await found.indices.read()];
          for (let r = 0; r < N * H; r++) {
            const expected = exhaustive(row(query, r, 2 * d), keys, own ? (r % H) * 2 * n * d : 0, n, K);
            const got = Array.from(scores.slice(r * K, (r + 1) * K));
            got.forEach((v, i) => {
              expect(Math.abs(v - expected.scores[i]!)).toBeLessThan(2e-6);
            });
            if (coarse) expect(Array.from(indices.slice(r * K, (r + 1) * K))).toEqual(expected.indices);
            else expect(new Set(indices.slice(r * K, (r + 1) * K)).size).toBe(K);
          }
          found.scores.dispose();
          found.indices.dispose();
        },
      ),
      { numRuns: 30 },
    );
  });

  it.each([false, true])("gradients, keys per head %s", async (own) => {
    const [N, H, n, d, K] = [5, 2, 6, 3, 4];
    await checkOp(
      device.gpu,
      (query, keys) => productKeyTopk(query, keys, { topK: K }).scores,
      (query, keys) =>
        Array.from(
          { length: N * H },
          (_, r) => exhaustive(row(query, r, 2 * d), keys, own ? (r % H) * 2 * n * d : 0, n, K).scores,
        ).flat(),
      [operand([1, N, H, 2 * d], 1), operand(own ? [H, 2, n, d] : [2, n, d], 2)],
      { h: 1e-5 },
    );
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const query = gpu.zeros([1, 2, 3, 4]);
    expect(() => productKeyTopk(query, gpu.zeros([2, 5, 3]), { topK: 1 })).toThrow(ShapeError);
    expect(() => productKeyTopk(query, gpu.zeros([2, 2, 5, 2]), { topK: 1 })).toThrow(ShapeError);
    expect(() => productKeyTopk(query, gpu.zeros([2, 5, 2]), { topK: 6 })).toThrow(/topK is 6/);
  });
});

for (const [label, features] of [
  ["with the adapter's subgroups", {}],
  ["without subgroups", { subgroups: false }],
] as const)
  describe(`peer ${label}`, () => {
    const device = useGpu({ features });
    const [N, H, dk] = [6, 2, 4];

    it.each<Partial<PeerOptions> & { dim?: number; own?: boolean; n?: number }>([
      {},
      { scoreActivation: "sigmoid", own: true, dim: 8 },
      { scoreActivation: "relu", activation: "swish" },
      { queryNorm: "batch", normEps: 1e-3 },
      { n: 2, dim: 4 },
    ])("%j: float64 values and gradients", async ({ dim: D = 5, own = false, n = 4, ...options }) => {
      const {
        scoreActivation = "softmax",
        activation = "gelu",
        queryNorm = "none",
        normEps = 1e-5,
      } = options;
      const K = Math.min(3, n);
      const features = H * dk;
      const score = (s: number[]): number[] =>
        scoreActivation === "softmax"
          ? softmax(s)
          : s.map(scoreActivation === "sigmoid" ? sigmoid : (v) => Math.max(v, 0));
      const batch = queryNorm === "batch";
      await checkOp(
        device.gpu,
        (...[x, wQuery, keys, expertDown, expertUp, normWeight, normBias]) => {
          const r = peer(
            x!,
            {
              wQuery: wQuery!,
              keys: keys!,
              expertDown: expertDown!,
              expertUp: expertUp!,
              normWeight,
              normBias,
            },
            { numHeads: H, topK: K, queryDim: dk, ...options },
          );
          return [r.out, r.weights];
        },
        (...[x, wQuery, keys, down, up, normWeight, normBias]) => {
          let q = Array.from({ length: N }, (_, t) => times(wQuery!, row(x!, t, D), features));
          if (batch) {
            const mean = q[0]!.map((_, f) => sum(q.map((r) => r[f]!)) / N);
            const variance = mean.map((m, f) => sum(q.map((r) => (r[f]! - m) ** 2)) / N);
            q = q.map((r) =>
              r.map(
                (v, f) =>
                  ((v - mean[f]!) / Math.sqrt(variance[f]! + normEps)) * normWeight![f]! + normBias![f]!,
              ),
            );
          }
          const out = new Float64Array(N * D);
          const weights: number[] = [];
          for (let t = 0; t < N; t++)
            for (let h = 0; h < H; h++) {
              const offset = own ? h * n * dk : 0;
              const found = exhaustive(q[t]!.slice(h * dk, (h + 1) * dk), keys!, offset, n, K);
              const w = score(found.scores);
              weights.push(...w);
              found.indices.forEach((e, i) => {
                const dot = sum(row(x!, t, D).map((v, d) => v * down![e * D + d]!));
                addRow(out, t, row(up!, e, D), w[i]! * (activation === "swish" ? silu(dot) : gelu(dot)));
              });
            }
          return [...out, ...weights];
        },
        [
          operand([1, N, D], 1),
          operand([features, D], 2),
          operand(own ? [H, 2, n, dk / 2] : [2, n, dk / 2], 3),
          operand([n * n, D], 4),
          operand([n * n, D], 5),
          ...(batch ? [operand([features], 6), operand([features], 7)] : []),
        ],
        { h: 1e-5, gradientTolerance: 2e-4 },
      );
    });
  });

describe("peer", () => {
  const device = useGpu();

  it("with one expert a head every weight is 1 and the router gets no gradient", async () => {
    const { gpu } = device;
    const layer = Peer.init(gpu, { dim: 8, numKeys: 5, numHeads: 3, topK: 1, queryDim: 4 }, { seed: 1 });
    const p = layer.parameters();
    const x = gpu.tensor(numbers(40, 1), [1, 5, 8]);
    const r = vjp(
      () => [layer.forward(x)],
      [p["to_queries.weight"]!, p["keys"]!, p["weight_up_embed.weight"]!],
    );
    const [dq, dk, du] = r.pullback([gpu.full([1, 5, 8], 1)]);
    expect(Array.from(await dq!.read()).every((v) => v === 0)).toBe(true);
    expect(Array.from(await dk!.read()).every((v) => v === 0)).toBe(true);
    expect(Array.from(await du!.read()).some((v) => v !== 0)).toBe(true);
  });

  it("finds experts among 65 536, with the same bits each time and gradients in the touched rows alone", async () => {
    const { gpu } = device;
    const layer = Peer.init(gpu, { dim: 16, numKeys: 256, numHeads: 4, topK: 16, queryDim: 8 }, { seed: 1 });
    const p = layer.parameters();
    const x = gpu.tensor(numbers(33 * 16, 1), [1, 33, 16]);
    const run = async (): Promise<{ ids: number[]; all: number[][] }> => {
      const r = vjp(() => {
        const { out, indices } = layer.outputs(x);
        return [out, indices];
      }, Object.values(p));
      const grads = r.pullback([gpu.full([1, 33, 16], 1), undefined]);
      const all: number[][] = [];
      for (const g of grads) all.push(Array.from(await g.read()));
      return { ids: Array.from(await r.outputs[1]!.read()), all };
    };
    const [a, b] = [await run(), await run()];
    expect(a).toEqual(b);
    const touched = new Set(a.ids);
    const down = a.all[Object.keys(p).indexOf("weight_down_embed.weight")]!;
    for (let e = 0; e < 65536; e++) {
      const some = down.slice(e * 16, e * 16 + 16).some((v) => v !== 0);
      if (some !== touched.has(e)) expect(`expert ${e}: ${some}`).toBe(`expert ${e}: ${touched.has(e)}`);
    }
  });

  it("evaluates with running statistics of the queries", async () => {
    const { gpu } = device;
    const config = {
      ...{ dim: 8, numKeys: 4, numHeads: 2, topK: 2, queryDim: 4, momentum: 1 },
      queryNorm: "batch",
    } as const;
    const layer = Peer.init(gpu, config, { seed: 1 });
    const x = gpu.tensor(numbers(160, 1), [1, 20, 8]);
    const trained = layer.forward(x, { training: true });
    // Momentum 1: the running statistics are this batch's.
    const evaluated = layer.forward(x);
    expect(relativeError(await evaluated.read(), await trained.read())).toBeLessThan(1e-5);
    const again = new Peer(config, { ...layer.parameters(), ...layer.buffers() });
    expect(relativeError(await again.forward(x).read(), await evaluated.read())).toBe(0);
    const m = layer.coefficients(x);
    const v = layer.parameters()["weight_up_embed.weight"]!;
    expect(relativeError(await matmul(m, v).read(), await evaluated.read())).toBeLessThan(1e-5);
  });

  // One feature a half, so that the scores are the keys themselves: query (1, 1), 3 keys a half, 9 experts.
  const scored = (first: number[], second: number[]) => {
    const { gpu } = device;
    return {
      x: gpu.full([1, 1, 1], 1),
      weights: {
        wQuery: gpu.full([2, 1], 1),
        keys: gpu.tensor([...first, ...second], [2, 3, 1]),
        expertDown: gpu.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 1]),
        expertUp: gpu.tensor([1, 1, 1, 2, 2, 2, 3, 3, 3], [9, 1]),
      },
      options: { numHeads: 1, topK: 3, queryDim: 2, activation: "relu" } as const,
    };
  };
  const differentiated = async ({ x, weights, options }: ReturnType<typeof scored>, more: object = {}) => {
    const r = vjp(() => {
      const { out, indices, weights: shares } = peer(x, weights, { ...options, ...more });
      return [out, indices, shares];
    }, [x, ...Object.values(weights)]);
    const read: number[][] = [];
    for (const t of [...r.outputs, ...r.pullback([device.gpu.full([1, 1, 1], 1), undefined, undefined])])
      read.push(Array.from(await t.read()));
    return read as [out: number[], indices: number[], shares: number[], ...grads: number[][]];
  };

  it("strong scores leave one expert, with finite gradients", async () => {
    for (const size of [1e4, 1e30]) {
      const [out, indices, shares, ...grads] = await differentiated(
        scored([size, 0, -size], [0, size, -size]),
      );
      expect(indices[0]).toBe(1);
      expect(shares).toEqual([1, 0, 0]);
      // relu(2) v_1.
      expect(out).toEqual([2]);
      const [dx, , , down, up] = grads;
      expect(dx).toEqual([2]);
      expect(down).toEqual([0, 1, 0, 0, 0, 0, 0, 0, 0]);
      expect(up).toEqual([0, 2, 0, 0, 0, 0, 0, 0, 0]);
      for (const g of grads) expect(g.every(Number.isFinite)).toBe(true);
    }
    const [out, , shares] = await differentiated(scored([1e4, 0, -1e4], [0, 0, -1e4]), {
      scoreActivation: "sigmoid",
    });
    expect(shares).toEqual([1, 1, 0.5]);
    // The third best is expert 2, before the experts 3 and 4 of the same score.
    expect(out).toEqual([1 + 2 + 0.5 * 3]);
  });

  it("an expert of weight 0 is not asked: NaN and infinity in its rows stay there", async () => {
    const { gpu } = device;
    for (const [low, more] of [
      [-1e30, {}],
      [-Infinity, {}],
      [-5, { scoreActivation: "relu" }],
    ] as const) {
      // Of the three experts that are retrieved, 0 alone has a weight.
      const one = scored([2, low, low], [1, low, low]);
      const rows = Array.from({ length: 9 }, (_, e) => (e === 0 ? 1 : e % 2 === 0 ? NaN : Infinity));
      const tables = { expertDown: gpu.tensor(rows, [9, 1]), expertUp: gpu.tensor(rows, [9, 1]) };
      const [out, , shares, ...grads] = await differentiated(
        { ...one, weights: { ...one.weights, ...tables } },
        more,
      );
      const weight = "scoreActivation" in more ? 3 : 1;
      expect(shares).toEqual([weight, 0, 0]);
      expect(out).toEqual([weight]);
      const [dx, , , down, up] = grads;
      // x enters the query too: with relu the weight is the score, 2 x + x.
      // Through keys of minus infinity its gradient is 0 times infinity, as in every product.
      if (low !== -Infinity) expect(dx).toEqual(["scoreActivation" in more ? 6 : 1]);
      expect(down).toEqual([weight, 0, 0, 0, 0, 0, 0, 0, 0]);
      expect(up).toEqual([weight, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
  });

  it("a token of NaN leaves the others alone", async () => {
    const { gpu } = device;
    const layer = Peer.init(gpu, { dim: 4, numKeys: 5, numHeads: 2, topK: 3, queryDim: 4 }, { seed: 1 });
    const clean = numbers(12, 1);
    const run = async (data: number[]): Promise<number[]> =>
      Array.from(await layer.forward(gpu.tensor(data, [1, 3, 4])).read());
    const expected = await run(Array.from(clean));
    const got = await run(Array.from(clean, (v, i) => (i >= 4 && i < 8 ? NaN : v)));
    expect([...got.slice(0, 4), ...got.slice(8)]).toEqual([...expected.slice(0, 4), ...expected.slice(8)]);
    expect(got.slice(4, 8)).toEqual([NaN, NaN, NaN, NaN]);
  });

  it("is a memory: the coefficients of all experts times their values is the output", async () => {
    const { gpu } = device;
    const make = (shape: number[], seed: number) => gpu.tensor(operand(shape, seed).data, shape);
    const weights = {
      wQuery: make([12, 6], 1),
      keys: make([2, 5, 2], 2),
      expertDown: make([25, 6], 3),
      expertUp: make([25, 6], 4),
    };
    const x = make([2, 7, 6], 5);
    const options = { numHeads: 3, topK: 4, queryDim: 4, scoreActivation: "sigmoid" } as const;
    const keys = peerKeys(x, weights, options);
    expect(keys.shape).toEqual([2, 7, 25]);
    const out = await matmul(keys, weights.expertUp).read();
    expect(relativeError(out, await peer(x, weights, options).out.read())).toBeLessThan(1e-5);
    const fires = Array.from(await keys.read()).filter((v) => v !== 0).length;
    expect(fires).toBeLessThanOrEqual(14 * 12);
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const x = gpu.zeros([1, 3, 4]);
    const weights = {
      wQuery: gpu.zeros([8, 4]),
      keys: gpu.zeros([2, 5, 2]),
      expertDown: gpu.zeros([25, 4]),
      expertUp: gpu.zeros([25, 4]),
    };
    const o = { numHeads: 2, topK: 2, queryDim: 4 };
    expect(() => peer(x, { ...weights, expertUp: gpu.zeros([24, 4]) }, o)).toThrow(
      /expertUp has shape \[24, 4\]/,
    );
    expect(() => peer(x, weights, { ...o, queryDim: 6 })).toThrow(/keys have shape/);
    expect(() => peer(x, { ...weights, normBias: gpu.zeros([8]) }, o)).toThrow(/queryNorm is "none"/);
    expect(() => peer(x, weights, { ...o, activation: "gelo" as never })).toThrow(ConfigError);
    expect(() => peer(x, weights, { ...o, activation: 3 as never })).toThrow(/activation is 3/);
    expect(() => peer(x, { ...weights, normWeigth: weights.keys } as never, o)).toThrow(
      /did you mean "normWeight"/,
    );
    expect(() => peer(x, weights, { ...o, topK: 6 })).toThrow(/topK is 6/);
    expect(() => peer(x, weights, { ...o, numhead: 1 } as never)).toThrow(/did you mean "numHeads"/);
  });
});
