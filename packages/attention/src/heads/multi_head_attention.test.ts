import { describe, expect, it } from "vitest";
import { mul, stopGradient } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { attentionReference, linearReference } from "../engine/attention.reference.js";
import { MultiHeadAttention, type MultiHeadAttentionConfig } from "../index.js";
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
    const config = { dim: 10, contextDim: 7, numHeads: 2, headDim: 4, bias: true };
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

  it("asks its hooks for norms and positions", async () => {
    const { gpu } = device;
    const config = { dim: 8, numHeads: 2, headDim: 4, causal: true };
    const parameters = parametersOf(gpu, MultiHeadAttention.plan(config));
    const seen: number[] = [];
    const hooked = new MultiHeadAttention(config, parameters, {
      queryNorm: (q) => mul(q, 2),
      keyNorm: (k) => mul(k, 0.5),
      position: (q, k, { seqLen }) => {
        seen.push(seqLen);
        return { q, k };
      },
    });
    const x = random(gpu, [1, 5, 8], 1);
    await expectSame(hooked.forward(x), new MultiHeadAttention(config, parameters).forward(x));
    expect(seen).toEqual([5]);
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const config = { dim: 8, numHeads: 2, headDim: 4 };
    const parameters = parametersOf(gpu, MultiHeadAttention.plan(config));
    const x = random(gpu, [1, 5, 8], 1);
    const make = (change: object) => () => new MultiHeadAttention({ ...config, ...change }, parameters);
    expect(make({ numHead: 2 })).toThrow(/unknown key "numHead"; did you mean "numHeads"/);
    expect(make({ numKvHeads: 3 })).toThrow(/numHeads is 2, numKvHeads 3/);
    expect(make({ bias: true })).toThrow(/parameter q_proj.bias is missing; it must have shape \[8\]/);
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
