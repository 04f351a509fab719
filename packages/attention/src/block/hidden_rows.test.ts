import { describe, expect, it } from "vitest";
import { DTypeError, ShapeError, vjp, type Gpu, type Module, type Tensor } from "@x/kernels";
import { numbers, product, useGpu } from "@x/testing";
import {
  LongformerAttention,
  LongT5Attention,
  MultiHeadAttention,
  Sled,
  TopDownTransformer,
  UnlimiformerAttention,
} from "../index.js";
import { hideRows } from "./hidden_rows.js";
import { parametersOf } from "../test-support.js";

const context = useGpu();
const [batch, seq, dim] = [2, 10, 8];
/** The rows of padding, on the right. */
const padded = (b: number, i: number): boolean => i >= 7 + b;

function masked(gpu: Gpu, bad: (n: number) => number, seed = 1): { x: Tensor; keyMask: Tensor } {
  const x = numbers(product([batch, seq, dim]), seed).map((value, n) => {
    const row = Math.floor(n / dim);
    return padded(Math.floor(row / seq), row % seq) ? bad(n) : value;
  });
  const keep = Int32Array.from({ length: batch * seq }, (_, n) =>
    padded(Math.floor(n / seq), n % seq) ? 0 : 1,
  );
  return { x: gpu.tensor(x, [batch, seq, dim]), keyMask: gpu.tensor(keep, [batch, seq], "i32") };
}

const poison = (n: number): number => [NaN, Infinity, -Infinity][n % 3]!;

/** The same outputs and gradients of x and of all parameters, whatever the padded rows hold. */
async function expectHidden(
  gpu: Gpu,
  module: Module,
  forward: (x: Tensor, keyMask: Tensor) => Tensor,
): Promise<void> {
  const run = async (bad: (n: number) => number): Promise<number[][]> => {
    const { x, keyMask } = masked(gpu, bad);
    const { outputs, pullback } = vjp(
      () => [forward(x, keyMask)],
      [x, ...Object.values(module.parameters())],
    );
    const g = gpu.tensor(numbers(outputs[0]!.size, 9), outputs[0]!.shape);
    return Promise.all([...outputs, ...pullback([g])].map(async (t) => Array.from(await t.read())));
  };
  const clean = await run(() => 0);
  expect(await run(poison)).toEqual(clean);
  expect(clean.flat().every(Number.isFinite)).toBe(true);
}

const heads = { dim, numHeads: 2, headDim: 4 };

describe("padded rows that are NaN or infinite", () => {
  it("do not reach cross-attention, its gradients, or a context's cache", async () => {
    const { gpu } = context;
    const config = { ...heads, qkvBias: true, outBias: true };
    const mha = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)));
    const y = gpu.tensor(numbers(batch * 3 * dim, 5), [batch, 3, dim]);
    await expectHidden(gpu, mha, (x, keyMask) => mha.forward(y, { context: x, keyMask }));
    await expectHidden(gpu, mha, (x, keyMask) =>
      mha.forward(y, { context: mha.contextCache(x, { keyMask }) }),
    );
  });

  it("do not reach Longformer", async () => {
    const { gpu } = context;
    const config = { ...heads, left: 1, right: 1, bias: true };
    const module = new LongformerAttention(config, parametersOf(gpu, LongformerAttention.plan(config)));
    await expectHidden(gpu, module, (x, keyMask) =>
      module.forward(x, { keyMask, globalTokens: [[0, 8], [3]] }),
    );
  });

  it("do not reach LongT5, nor its global tokens", async () => {
    const { gpu } = context;
    const config = { ...heads, radius: 2, globalBlock: 3 };
    const module = new LongT5Attention(config, parametersOf(gpu, LongT5Attention.plan(config)));
    await expectHidden(gpu, module, (x, keyMask) => module.forward(x, { keyMask }));
    module.dispose();
  });

  it("do not reach Unlimiformer", async () => {
    const { gpu } = context;
    const config = { ...heads, topK: 4, bias: true };
    const module = new UnlimiformerAttention(config, parametersOf(gpu, UnlimiformerAttention.plan(config)));
    const y = gpu.tensor(numbers(batch * 3 * dim, 5), [batch, 3, dim]);
    await expectHidden(gpu, module, (x, keyMask) => module.forward(y, { context: x, keyMask }));
  });

  it("do not reach the units of a Top-Down Transformer, nor the tokens' rows", async () => {
    const { gpu } = context;
    const sizes = {
      bottomLayers: 1,
      topLayers: 1,
      downLayers: 1,
      left: 2,
      right: 2,
      poolKernel: 4,
      poolStride: 2,
    };
    const config = { ...heads, ffnDim: 8, ...sizes };
    const module = new TopDownTransformer(config, parametersOf(gpu, TopDownTransformer.plan(config)));
    const run = async (bad: (n: number) => number): Promise<{ out: number[]; top: number[] }> => {
      const { x, keyMask } = masked(gpu, bad);
      const { out, top } = module.outputs(x, { keyMask });
      return { out: Array.from(await out.read()), top: Array.from(await top.read()) };
    };
    const [clean, dirty] = [await run(() => 0), await run(poison)];
    expect(dirty.top).toEqual(clean.top);
    clean.out.forEach((want, n) => {
      const row = Math.floor(n / dim);
      if (!padded(Math.floor(row / seq), row % seq)) expect(dirty.out[n]).toBe(want);
    });
  });

  it("do not reach SLED's decoder", async () => {
    const { gpu } = context;
    const config = { ...heads, ffnDim: 8, layers: 1, decLayers: 1, contextSize: 6, windowFraction: 0.5 };
    const module = new Sled(config, parametersOf(gpu, Sled.plan(config)));
    const y = gpu.tensor(numbers(batch * 3 * dim, 5), [batch, 3, dim]);
    const run = async (bad: (n: number) => number): Promise<number[]> => {
      const { x, keyMask } = masked(gpu, bad);
      return Array.from(await module.forward(x, { y, keyMask }).read());
    };
    expect(await run(poison)).toEqual(await run(() => 0));
  });

  it("are zeros, with no gradient, after hideRows", async () => {
    const { gpu } = context;
    const { x, keyMask } = masked(gpu, poison);
    const { outputs, pullback } = vjp(() => [hideRows("rows", x, keyMask)], [x]);
    const [dx] = pullback([gpu.full(x.shape, NaN)]);
    const [out, gradient] = [await outputs[0]!.read(), await dx!.read()];
    for (let n = 0; n < out.length; n++) {
      const row = Math.floor(n / dim);
      if (padded(Math.floor(row / seq), row % seq)) expect([out[n], gradient[n]]).toEqual([0, 0]);
    }
    expect(() => hideRows("rows", x, gpu.zeros([1, seq], "i32"))).toThrow(ShapeError);
    expect(() => hideRows("rows", x, gpu.zeros([batch, seq]))).toThrow(DTypeError);
  });
});
