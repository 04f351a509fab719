import { describe, expect, it } from "vitest";
import { e, input, RelativeIndex, vjp, type Gpu, type ScoreModifier, type Tensor } from "@x/kernels";
import { numbers, product, relativeError, useGpu } from "@x/testing";
import { attentionOutputs, causal, globalTokens, slidingWindow, type AttentionOptions } from "../index.js";

const [B, H, HKV, N, M, D, R] = [2, 4, 2, 21, 40, 8, 5] as const;

/** Output, log-sum-exp, sums of weights and every gradient, with each mask and term that there is. */
async function everything(gpu: Gpu, only: readonly string[]): Promise<Record<string, Float32Array>> {
  const random = (shape: readonly number[], seed: number): Tensor =>
    gpu.tensor(numbers(product(shape), seed), shape);
  const ints = (shape: readonly number[], of: (n: number) => number): Tensor =>
    gpu.tensor(
      Int32Array.from({ length: product(shape) }, (_, n) => of(n)),
      shape,
      "i32",
    );
  const index = new RelativeIndex(R, (d) => Math.min(R - 1, Math.abs(d)));
  const tables = {
    h: random([H, R], 11),
    bhq: random([B, H, N, R], 12),
    bhk: random([B, H, M, R], 13),
  };
  const alibi: ScoreModifier = {
    kind: "pointwise",
    name: "alibi",
    slopes: gpu.tensor([0.5, 0.1, 0.2, 0.3], [H]),
    expr: e.sub(input("score"), e.mul(input("slope"), e.abs(input("distance")))),
  };
  const [bias, sinks] = [random([B, 1, N, M], 14), random([H], 15)];
  const options: Required<Omit<AttentionOptions, "scale" | "causal" | "window" | "queryOffset" | "layout">> =
    {
      softcap: 3,
      modifiers: [
        alibi,
        ...(["h", "bhq", "bhk"] as const).map((axes): ScoreModifier => ({
          kind: "relative",
          name: axes,
          axes,
          tensor: tables[axes],
          index,
        })),
      ],
      bias,
      mask: ints([B, 1, N, M], (n) => (n % 7 === 3 ? 0 : 1)),
      keyMask: ints([B, M], (n) => (n % 11 === 5 ? 0 : 1)),
      docs: ints([B, M], (n) => (n % M < 25 ? 0 : 1)),
      sinks,
      pattern: causal().and(slidingWindow(9).or(globalTokens([1, 30]))),
      positions: {
        query: ints([B, N], (n) => (n % N) + M - N),
        key: ints([B, M], (n) => (n % M === 2 ? -1 : n % M)),
        minDistance: 1 - M,
        maxDistance: M,
      },
      weightSums: index,
    };
  const used = Object.fromEntries(
    Object.entries(options).filter(([name]) => only.length === 0 || only.includes(name)),
  );
  const [q, k, v] = [random([B, H, N, D], 1), random([B, HKV, M, D], 2), random([B, HKV, M, D], 3)];
  const wanted: Record<string, Tensor> = { q, k, v, ...tables, bias, sinks };
  const run = vjp(() => {
    const { out, lse, weightSums } = attentionOutputs(q, k, v, { causal: true, ...used });
    return weightSums ? [out, lse, weightSums] : [out, lse];
  }, Object.values(wanted));
  const cotangents = run.outputs.map((t, n) => random(t.shape, 21 + n));
  const results = [...run.outputs, ...run.pullback(cotangents)];
  const names = [...["out", "lse", "sums"].slice(0, run.outputs.length), ...Object.keys(wanted)];
  const read = await Promise.all(results.map(async (t) => Float32Array.from(await t.read())));
  index.dispose();
  return Object.fromEntries(names.map((name, n) => [name, read[n]!]));
}

const finite = (x: Float32Array): Float32Array => x.map((n) => (n === -Infinity ? -1e3 : n));

describe("a device that binds 8 tensors in a kernel", () => {
  const small = useGpu({ small: true });
  const plain = useGpu();

  for (const only of [[], ["positions", "docs", "keyMask"], ["weightSums", "sinks", "pattern"]])
    it(`gives what others give, with gradients: ${only.join(", ") || "all masks and terms together"}`, async () => {
      expect(small.gpu.limits.maxStorageBuffersPerShaderStage).toBe(8);
      expect(plain.gpu.limits.maxStorageBuffersPerShaderStage).toBeGreaterThan(8);
      const [one, other] = [await everything(small.gpu, only), await everything(plain.gpu, only)];
      for (const [name, values] of Object.entries(other))
        expect(relativeError(finite(one[name]!), finite(values)), name).toBeLessThan(1e-6);
    });
});
