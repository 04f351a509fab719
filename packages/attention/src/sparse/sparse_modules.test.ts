import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { transpose, type ParameterPlan, type Tensor } from "@x/kernels";
import { checkOp, operand, useGpu, type Operand } from "@x/testing";
import {
  attentionReference,
  linearReference,
  rmsNormReference,
  type Numbers,
} from "../engine/attention.reference.js";
import { LongformerAttention, longNetAttention, LongT5Attention } from "../index.js";

const up = (max: number, min = 0): fc.Arbitrary<number> => fc.integer({ min, max });
const operandsOf = (plan: ParameterPlan, from: number): Operand[] =>
  Object.values(plan).map(({ shape }, n) => operand(shape, from + n));
/** Values by the names of a plan, which `checkOp` gives in its order. */
const named = <T>(plan: ParameterPlan, values: readonly T[]): Record<string, T> =>
  Object.fromEntries(Object.keys(plan).map((name, n) => [name, values[n]!]));
/** A plan without the biases of keys: they shift a row's scores alike, so their gradient is zero. */
const withoutKeyBiases = (plan: ParameterPlan): ParameterPlan =>
  Object.fromEntries(Object.entries(plan).filter(([name]) => !/^k_.*bias$/.test(name)));

describe("sparse modules, of any shape, are what their equations say in float64, with gradients", () => {
  const device = useGpu();

  it("LongNet: one softmax over the key lists of all patterns, a key in two of them twice", async () => {
    const shape = fc.record({
      n: up(13, 1),
      heads: up(3, 1),
      pairs: fc.array(fc.tuple(up(9, 1), up(4, 1)), { minLength: 1, maxLength: 3 }),
      causal: fc.boolean(),
      headOffset: fc.constantFrom("mod" as const, "block" as const),
    });
    await fc.assert(
      fc.asyncProperty(shape, async ({ n, heads, pairs, causal, headOffset }) => {
        const count = (h: number, i: number, j: number): number =>
          pairs.filter(([w, r]) => {
            const s = headOffset === "mod" ? h % r : Math.floor(h / Math.ceil(heads / r));
            return (
              Math.floor(i / w) === Math.floor(j / w) &&
              (i % w) % r === s &&
              (j % w) % r === s &&
              (!causal || j <= i)
            );
          }).length;
        const back = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);
        await checkOp(
          device.gpu,
          (q, k, v) =>
            back(
              longNetAttention(back(q), back(k), back(v), {
                segmentLengths: pairs.map(([w]) => w),
                dilations: pairs.map(([, r]) => r),
                causal,
                headOffset,
              }),
            ),
          (q, k, v) =>
            attentionReference(q, k, v, {
              batch: 2,
              heads,
              kvHeads: heads,
              queries: n,
              keys: n,
              dim: 2,
              valueDim: 3,
              scale: 2 ** -0.5,
              seen: (_, h, i, j) => count(h, i, j) > 0,
              term: (_, h, i, j) => Math.log(count(h, i, j)),
            }),
          [operand([2, n, heads, 2], 1), operand([2, n, heads, 2], 2), operand([2, n, heads, 3], 3)],
        );
      }),
      { numRuns: 6, seed: 4 },
    );
  }, 300_000);

  it("LongNet refuses lengths that differ and options of a wrong kind", () => {
    const { gpu } = device;
    const [q, k] = [gpu.zeros([1, 2, 4, 8]), gpu.zeros([1, 2, 5, 8])];
    const run = (key: Tensor, more: object) => () =>
      longNetAttention(q, key, key, { segmentLengths: [4], dilations: [2], ...more });
    expect(run(k, {})).toThrow(/k has shape \[1, 2, 5, 8\]; it must be \[batch = 1, any, seq = 4, any\]/);
    expect(run(q, { detachWeights: "yes" })).toThrow(/detachWeights is "yes"/);
    expect(run(q, { dilations: [] })).toThrow(/dilations 0; they need one count/);
    expect(run(q, { dilations: [0] })).toThrow(/dilations\[0\] is 0/);
  });

  it("Longformer: windows of each head's dilation, global tokens both ways, padding", async () => {
    const [B, D, H, d] = [2, 3, 2, 2];
    const shape = fc.record({
      n: up(11, 1),
      left: up(3),
      right: up(3),
      dilation: fc.oneof(up(3, 1), fc.tuple(up(3, 1), up(3, 1))),
      bias: fc.boolean(),
      tokens: fc.array(fc.array(up(10), { maxLength: 3 }), { minLength: B, maxLength: B }),
      padded: fc.array(up(10), { maxLength: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(shape, async ({ n, tokens, padded, ...own }) => {
        const config = { dim: D, numHeads: H, headDim: d, ...own };
        const whole = LongformerAttention.plan(config);
        const plan = withoutKeyBiases(whole);
        const keyBiases = Object.keys(whole).filter((name) => !(name in plan));
        const keyBias = operand([H * d], 50).data;
        const keep = Int32Array.from({ length: B * n }, (_, at) => (padded.includes(at % n) ? 0 : 1));
        const globals = tokens.map((list) => [...new Set(list.filter((i) => i < n))]);
        const isGlobal = (b: number, i: number): boolean => keep[b * n + i] === 1 && globals[b]!.includes(i);
        const window = (h: number, i: number, j: number): boolean => {
          const r = typeof own.dilation === "number" ? own.dilation : own.dilation[h]!;
          return Math.abs(i - j) % r === 0 && i - j <= own.left * r && j - i <= own.right * r;
        };
        await checkOp(
          device.gpu,
          (x, ...weights) =>
            new LongformerAttention(config, {
              ...named(plan, weights),
              ...Object.fromEntries(
                keyBiases.map((name) => [name, device.gpu.tensor(keyBias, [H * d])] as const),
              ),
            }).forward(x, {
              keyMask: device.gpu.tensor(keep, [B, n], "i32"),
              globalTokens: globals,
            }),
          (x, ...weights) => {
            const p = named<Numbers>(plan, weights);
            const split = (name: string): Numbers =>
              linearReference(
                x,
                p[`${name}.weight`]!,
                D,
                p[`${name}.bias`] ?? (own.bias ? keyBias : undefined),
              );
            const attend = (
              suffix: string,
              seen: (b: number, h: number, i: number, j: number) => boolean,
            ): Float64Array =>
              attentionReference(split(`q${suffix}`), split(`k${suffix}`), split(`v${suffix}`), {
                ...{ batch: B, heads: H, kvHeads: H, queries: n, keys: n, dim: d, valueDim: d },
                scale: d ** -0.5,
                seen: (b, h, i, j) => keep[b * n + i] === 1 && keep[b * n + j] === 1 && seen(b, h, i, j),
              });
            const near = attend("_proj", (b, h, i, j) => window(h, i, j) || isGlobal(b, j));
            const far = attend("_global_proj", () => true);
            const rows = near.map((y, at) => {
              const row = Math.floor(at / (H * d));
              return isGlobal(Math.floor(row / n), row % n) ? far[at]! : y;
            });
            return linearReference(rows, p["o_proj.weight"]!, H * d, p["o_proj.bias"]);
          },
          [operand([B, n, D], 1), ...operandsOf(plan, 2)],
        );
      }),
      { numRuns: 4, seed: 4 },
    );
  }, 300_000);

  it("LongT5: relative biases, blocks whose last token is real, the tail in the last of them", async () => {
    const [B, D, H, d] = [2, 3, 2, 2];
    const shape = fc.record({
      n: up(12, 1),
      radius: up(4),
      globalBlock: up(4),
      lengths: fc.tuple(up(12), up(12)),
    });
    await fc.assert(
      fc.asyncProperty(shape, async ({ n, radius, globalBlock: G, lengths }) => {
        const config = {
          dim: D,
          numHeads: H,
          headDim: d,
          radius,
          globalBlock: G,
          numBuckets: 8,
          maxDistance: 9,
        };
        const plan = LongT5Attention.plan(config);
        const length = lengths.map((m) => Math.min(m, n));
        const real = (b: number, i: number): boolean => i < length[b]!;
        const keep = Int32Array.from({ length: B * n }, (_, at) =>
          real(Math.floor(at / n), at % n) ? 1 : 0,
        );
        const full = length.map((m) => (G > 0 ? Math.floor(m / G) : 0));
        const most = Math.max(...full);
        const block = (b: number, i: number): number => Math.min(Math.floor(i / G), full[b]! - 1);
        const bucket = (rel: number): number => {
          const a = Math.abs(rel);
          const log = 2 + Math.floor((Math.log(a / 2) / Math.log(9 / 2)) * 2);
          return (rel > 0 ? 4 : 0) + (a < 2 ? a : Math.min(3, log));
        };
        await checkOp(
          device.gpu,
          (x, ...weights) =>
            new LongT5Attention(config, named(plan, weights)).forward(x, {
              keyMask: device.gpu.tensor(keep, [B, n], "i32"),
            }),
          (x, ...weights) => {
            const p = named<Numbers>(plan, weights);
            const sides = new Float64Array(B * most * D);
            for (let b = 0; b < B; b++)
              for (let i = 0; i < length[b]!; i++)
                for (let c = 0; c < D && full[b]! > 0; c++)
                  sides[(b * most + block(b, i)) * D + c]! += x[(b * n + i) * D + c]!;
            const normed = rmsNormReference(
              sides,
              p["global_input_layer_norm.weight"] ?? new Float64Array(D).fill(1),
              1e-6,
            );
            const both = Array.from({ length: B }, (_, b) => [
              ...Array.from(x).slice(b * n * D, (b + 1) * n * D),
              ...normed.slice(b * most * D, (b + 1) * most * D),
            ]).flat();
            const out = attentionReference(
              linearReference(x, p["q_proj.weight"]!, D),
              linearReference(both, p["k_proj.weight"]!, D),
              linearReference(both, p["v_proj.weight"]!, D),
              {
                ...{ batch: B, heads: H, kvHeads: H, queries: n, keys: n + most, dim: d, valueDim: d },
                scale: 1,
                seen: (b, _, i, j) =>
                  real(b, i) && (j < n ? real(b, j) && Math.abs(i - j) <= radius : j - n < full[b]!),
                term: (b, h, i, j) =>
                  j < n
                    ? p["relative_attention_bias.weight"]![bucket(j - i) * H + h]!
                    : p["global_relative_attention_bias.weight"]![bucket(j - n - block(b, i)) * H + h]!,
              },
            );
            return linearReference(out, p["o_proj.weight"]!, H * d);
          },
          [operand([B, n, D], 1), ...operandsOf(plan, 2)],
        );
      }),
      { numRuns: 4, seed: 4 },
    );
  }, 300_000);
});
