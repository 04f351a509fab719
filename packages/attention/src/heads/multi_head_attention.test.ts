import { describe, expect, it } from "vitest";
import { mul, stopGradient, type Tensor } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu } from "@x/testing";
import { attentionReference, linearReference } from "../engine/attention.reference.js";
import { MultiHeadAttention, type HeadNorm, type MultiHeadAttentionConfig } from "../index.js";
import { expectSame, parametersOf, random } from "../test-support.js";

describe("MultiHeadAttention", () => {
  const device = useGpu();

  it.each([
    ["grouped, causal", { dim: 10, numHeads: 4, numKvHeads: 2, headDim: 6, causal: true }],
    ["cross, one key head", { dim: 10, contextDim: 7, numHeads: 3, numKvHeads: 1, headDim: 5 }],
  ] as [string, MultiHeadAttentionConfig][])(
    "%s: the float64 reference and its gradients",
    async (_, config) => {
      const [batch, n, m] = [2, 5, config.contextDim ? 9 : 5];
      const { dim, contextDim = dim, numHeads, numKvHeads = numHeads, headDim = 0 } = config;
      const plan = MultiHeadAttention.plan(config);
      const names = Object.keys(plan);
      const inputs = [
        operand([batch, n, dim], 1),
        ...(config.contextDim ? [operand([batch, m, contextDim], 2)] : []),
      ];
      await checkOp(
        device.gpu,
        (...tensors) => {
          const weights = tensors.slice(inputs.length);
          const layer = new MultiHeadAttention(
            config,
            Object.fromEntries(names.map((name, i) => [name, weights[i]!])),
          );
          return layer.forward(tensors[0]!, config.contextDim ? { context: tensors[1]! } : {});
        },
        (...data) => {
          const [wq, wk, wv, wo] = data.slice(inputs.length) as [
            Float64Array,
            Float64Array,
            Float64Array,
            Float64Array,
          ];
          const [x, c] = [data[0]!, data[inputs.length - 1]!];
          const o = attentionReference(
            linearReference(x, wq, dim),
            linearReference(c, wk, contextDim),
            linearReference(c, wv, contextDim),
            {
              batch,
              heads: numHeads,
              kvHeads: numKvHeads,
              queries: n,
              keys: m,
              dim: headDim,
              valueDim: headDim,
              scale: headDim ** -0.5,
              seen: (_b, _h, i, j) => !config.causal || j <= i,
            },
          );
          return linearReference(o, wo, numHeads * headDim);
        },
        [...inputs, ...Object.values(plan).map(({ shape }, i) => operand(shape, 10 + i))],
      );
    },
  );

  it("computes the keys and values of a context once", async () => {
    const { gpu } = device;
    const config = { dim: 10, contextDim: 7, numHeads: 2, headDim: 4, qkvBias: true, outBias: true };
    const layer = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)));
    const [x, context] = [random(gpu, [2, 3, 10], 1), random(gpu, [2, 6, 7], 2)];
    const keyMask = gpu.tensor([1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0], [2, 6], "i32");
    const cache = layer.contextCache(context, { keyMask });
    const direct = layer.forward(x, { context, keyMask });
    await expectSame(layer.forward(x, { context: cache }), direct);
    // The second row of the batch has no context at all: the bias alone.
    const bias = Array.from(await layer.parameters()["o_proj.bias"]!.read());
    const rows = Array.from(await direct.read()).slice(30);
    expect(rows).toEqual([...bias, ...bias, ...bias]);
    cache.dispose();
  });

  it("asks its parts for norms, rotations and positions", async () => {
    const { gpu } = device;
    const config = { dim: 8, numHeads: 2, headDim: 4, causal: true };
    const parameters = parametersOf(gpu, MultiHeadAttention.plan(config));
    const seen: unknown[] = [];
    const norm = (factor: number): HeadNorm => ({
      forward: (x, options) => {
        seen.push(options);
        return mul(x, factor);
      },
      parameters: () => ({}),
    });
    const layer = new MultiHeadAttention(config, parameters, {
      q_norm: norm(2),
      k_norm: norm(8),
      inner_attn_ln: { forward: (x) => mul(x, 0.5), parameters: () => ({}) },
      rope: { applyQK: (q, k, { seqLen }) => [mul(q, 1 / seqLen), k] },
      position: {
        rotate: (q, k, { maxPositions }) => ({ q, k: mul(k, 1 / maxPositions) }),
        scores: (q, _keys, range) => {
          seen.push(range);
          return { query: mul(q, 25 / 16), scale: 0.5, modifiers: [] };
        },
      },
    });
    const x = random(gpu, [1, 5, 8], 1);
    const whole = mul(new MultiHeadAttention(config, parameters).forward(x), 0.5);
    await expectSame(layer.forward(x, { normOptions: { training: true } }), whole);
    expect(seen).toEqual([
      { training: true },
      { training: true },
      { scale: 0.5, minDistance: 0, maxDistance: 4 },
    ]);
    const both = new MultiHeadAttention({ ...config, causal: false }, parameters, {
      position: {
        scores: (_q, _keys, { minDistance, maxDistance }) => {
          expect([minDistance, maxDistance]).toEqual([-4, 4]);
          return { modifiers: [] };
        },
      },
    });
    both.forward(x);
    const fixed = { forward: (y: Tensor) => y, parameters: () => ({}), scale: 1 };
    const scaled = new MultiHeadAttention(config, parameters, {
      q_norm: fixed,
      position: { scores: () => ({ scale: 2, modifiers: [] }) },
    });
    expect(() => scaled.forward(x)).toThrow(/the encoding scales the scores itself/);
    expect(() => new MultiHeadAttention({ ...config, scale: 1 }, parameters, { q_norm: fixed })).toThrow(
      /scale is 1; q_norm has a factor of its own, 1/,
    );
    expect(() => new MultiHeadAttention(config, parameters, { rope: {} as never })).toThrow(
      /rope is an object; it must be a rotary embedding/,
    );
  });

  it("clips q, k and v, and gates each feature or each head before the output", async () => {
    const { gpu } = device;
    const x = random(gpu, [1, 5, 8], 1);
    const limit = 0.3;
    const clip = (values: Float64Array): Float64Array =>
      values.map((value) => Math.max(-limit, Math.min(limit, value)));
    const data = Float64Array.from(await x.read());
    for (const outputGate of ["element", "head"] as const) {
      const config = { dim: 8, numHeads: 2, headDim: 4, qkvClip: limit, outputGate };
      const parameters = parametersOf(gpu, MultiHeadAttention.plan(config));
      const weight: Record<string, Float64Array> = {};
      for (const [name, t] of Object.entries(parameters)) weight[name] = Float64Array.from(await t.read());
      const by = (name: string): Float64Array => linearReference(data, weight[`${name}_proj.weight`]!, 8);
      const [q, k, v] = [clip(by("q")), clip(by("k")), clip(by("v"))];
      expect([q, k, v].every((t) => t.some((value) => Math.abs(value) === limit))).toBe(true);
      const o = attentionReference(q, k, v, {
        ...{ batch: 1, heads: 2, kvHeads: 2, queries: 5, keys: 5, dim: 4, valueDim: 4, scale: 0.5 },
        seen: () => true,
      });
      const gate = by("gate");
      const gated = o.map((value, n) => value / (1 + Math.exp(-gate[outputGate === "head" ? n >> 2 : n]!)));
      const want = linearReference(gated, weight["o_proj.weight"]!, 8);
      const got = await new MultiHeadAttention(config, parameters).forward(x).read();
      expect(relativeError(got, want)).toBeLessThan(1e-5);
    }
  });

  it("takes a causal pattern that is a window for one, and keeps a ring for it", async () => {
    const { gpu } = device;
    const config = { dim: 8, numHeads: 2, headDim: 4, causal: true };
    const parameters = parametersOf(gpu, MultiHeadAttention.plan(config));
    const x = random(gpu, [1, 9, 8], 1);
    const wanted = new MultiHeadAttention({ ...config, window: 3 }, parameters).forward(x);
    for (const own of [{}, { window: 7 }]) {
      const pattern = { kind: "slidingWindow", left: 2, right: 0 } as const;
      const layer = new MultiHeadAttention({ ...config, ...own, pattern }, parameters);
      await expectSame(layer.forward(x), wanted);
      const state = layer.createState({ batch: 1, maxLength: 9, maxChunk: 2 });
      expect(state.slots).toBe(4);
      await expectSame(layer.forward(x, { state }), wanted);
      state.dispose();
    }
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const config = { dim: 8, numHeads: 2, headDim: 4 };
    const parameters = parametersOf(gpu, MultiHeadAttention.plan(config));
    const x = random(gpu, [1, 5, 8], 1);
    const make = (change: object) => () => new MultiHeadAttention({ ...config, ...change }, parameters);
    expect(make({ numHead: 2 })).toThrow(/unknown key "numHead"; did you mean "numHeads"/);
    expect(make({ numKvHeads: 3 })).toThrow(/numHeads is 2; it must be a multiple of numKvHeads, 3/);
    expect(make({ pattern: { kind: "slidingwindow" } })).toThrow(/kind is "slidingwindow"/);
    expect(() => MultiHeadAttention.plan({ dim: 8, numHeads: 3 })).toThrow(
      /numHeads is 3; without headDim it must divide dim, 8/,
    );
    expect(make({ qkvBias: true })).toThrow(/parameter q_proj.bias is missing; it must have shape \[8\]/);
    expect(make({ headDim: 5 })).toThrow(/q_proj.weight has shape \[8, 8\]; it must be \[10, 8\]/);
    const q = { "q_proj.weight": gpu.zeros([8, 8], "i32") };
    expect(() => new MultiHeadAttention(config, { ...parameters, ...q })).toThrow(
      "parameter q_proj.weight is i32; it must be f32 or f16",
    );
    const layer = new MultiHeadAttention(config, parameters);
    expect(() => layer.forward(random(gpu, [5, 8], 1))).toThrow(/x has shape \[5, 8\]/);
    const cache = layer.createState({ batch: 1, maxLength: 8 });
    expect(() => layer.forward(x, { state: cache })).toThrow(/causal must be true/);
    expect(() => layer.forward(x, { context: stopGradient(x), state: cache })).toThrow(/context and state/);
    cache.dispose();
  });
});
