import { describe, expect, it } from "vitest";
import { ConfigError, matmul, RelativeIndex, vjp, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, product, relativeError, useGpu } from "@x/testing";
import {
  attention,
  attentionScores,
  attentionWeights,
  slidingWindow,
  type AttentionWeightsOptions,
} from "../index.js";

const context = useGpu();
const [B, H, Hkv, S, T, D] = [2, 4, 2, 7, 11, 6];

/** Float64 scores of causal attention with a soft cap and a bias, -inf where a key is not seen. */
function scores(q: Float64Array, k: Float64Array, bias: Float64Array, cap: number): Float64Array {
  return Float64Array.from({ length: B * H * S * T }, (_, n) => {
    const [j, i] = [n % T, Math.floor(n / T) % S];
    const [h, b] = [Math.floor(n / T / S) % H, Math.floor(n / T / S / H)];
    if (j > i + T - S) return -Infinity;
    let s = 0;
    for (let d = 0; d < D; d++)
      s += q[((b * H + h) * S + i) * D + d]! * k[((b * Hkv + Math.floor(h / (H / Hkv))) * T + j) * D + d]!;
    return cap * Math.tanh((s * D ** -0.5) / cap) + bias[i * T + j]!;
  });
}

function softmaxRows(s: Float64Array): Float64Array {
  const out = new Float64Array(s.length);
  for (let r = 0; r < s.length; r += T) {
    const row = s.subarray(r, r + T);
    const w = row.map((x) => Math.exp(x - Math.max(...row)));
    const z = w.reduce((x, y) => x + y);
    out.set(
      w.map((x) => x / z),
      r,
    );
  }
  return out;
}

const operands = [operand([B, H, S, D], 1), operand([B, Hkv, T, D], 2), operand([S, T], 3)];

describe("attentionWeights", () => {
  it("is the softmax of the scores, with gradients", async () => {
    await checkOp(
      context.gpu,
      (q, k, bias) => attentionWeights(q, k, { causal: true, softcap: 2, bias }),
      (q, k, bias) => softmaxRows(scores(q, k, bias, 2)),
      operands,
    );
  });

  it("times the values is attention, and so are all gradients: sinks, masks, patterns, relative terms", async () => {
    const { gpu } = context;
    const tensor = (shape: number[], seed: number): Tensor =>
      gpu.tensor(numbers(product(shape), seed), shape);
    const [q, k, v] = [tensor([B, H, S, D], 1), tensor([B, Hkv, T, D], 2), tensor([B, Hkv, T, 5], 3)];
    const [sinks, rows, byKey] = [tensor([H], 4), tensor([H, 4], 5), tensor([B, H, T, 4], 6)];
    const bias = tensor([B, 1, 1, T], 7);
    const index = new RelativeIndex(4, (d) => Math.min(3, Math.abs(d)));
    const keyMask = gpu.tensor(
      Int32Array.from({ length: B * T }, (_, n) => (n % 5 === 3 || n < T ? 0 : 1)),
      [B, T],
      "i32",
    );
    const options: AttentionWeightsOptions = {
      sinks,
      bias,
      keyMask,
      scale: 0.3,
      pattern: slidingWindow(4, 1),
      modifiers: [
        { kind: "relative", name: "rows", axes: "h", tensor: rows, index },
        { kind: "relative", name: "keys", axes: "bhk", tensor: byKey, index },
      ],
    };
    const inputs = [q, k, v, sinks, rows, byKey, bias];
    const g = tensor([B, H, S, 5], 8);
    const fused = vjp(() => [attention(q, k, v, options)], inputs);
    const stored = vjp(() => {
      const w = attentionWeights(q, k, options);
      const group = H / Hkv;
      return [matmul(w.reshape([B, Hkv, group * S, T]), v).reshape([B, H, S, 5])];
    }, inputs);
    const want = [...fused.outputs, ...fused.pullback([g])];
    const got = [...stored.outputs, ...stored.pullback([g])];
    for (const [n, t] of got.entries())
      expect(relativeError(await t.read(), await want[n]!.read())).toBeLessThan(2e-5);
    index.dispose();
  });

  it("takes either layout, and reads nothing that is hidden, in gradients too", async () => {
    const { gpu } = context;
    const keep = Int32Array.from({ length: T }, (_, j) => (j === 4 ? 0 : 1));
    const run = async (bad: number): Promise<number[][]> => {
      const k = gpu.tensor(
        numbers(T * 4, 1).map((x, n) => (Math.floor(n / 4) === 4 ? bad : x)),
        [1, T, 1, 4],
      );
      const q = gpu.tensor(numbers(S * 4, 2), [1, S, 1, 4]);
      const keyMask = gpu.tensor(keep, [1, T], "i32");
      const r = vjp(() => [attentionWeights(q, k, { layout: "bshd", keyMask })], [q, k]);
      expect(r.outputs[0]!.shape).toEqual([1, 1, S, T]);
      const g = gpu.tensor(numbers(S * T, 3), [1, 1, S, T]);
      return Promise.all([...r.outputs, ...r.pullback([g])].map(async (t) => Array.from(await t.read())));
    };
    const zero = await run(0);
    for (const bad of [NaN, Infinity]) expect(await run(bad)).toEqual(zero);
    expect(zero.flat().every(Number.isFinite)).toBe(true);
  });

  it("gives zeros for a row that sees nothing", async () => {
    const { gpu } = context;
    const x = gpu.tensor(numbers(2 * 4, 1), [1, 1, 2, 4]);
    const mask = gpu.tensor([0, 0, 1, 0], [2, 2], "i32");
    expect(Array.from(await attentionWeights(x, x, { mask }).read())).toEqual([0, 0, 1, 0]);
  });
});

describe("attentionScores", () => {
  it("is the plain product, and with options capped, biased and -inf where a key is hidden", async () => {
    const { gpu } = context;
    const [q, k, bias] = operands.map((o) => gpu.tensor(o.data, o.shape)) as [Tensor, Tensor, Tensor];
    const all = scores(
      ...(operands.map((o) => Float64Array.from(o.data)) as [Float64Array, Float64Array, Float64Array]),
      2,
    );
    const got = Array.from(await attentionScores(q, k, { causal: true, softcap: 2, bias }).read());
    all.forEach((want, n) => {
      if (want === -Infinity) expect(got[n]).toBe(-Infinity);
      else expect(Math.abs(got[n]! - want)).toBeLessThan(2e-6 + 1e-5 * Math.abs(want));
    });
    const plain = await attentionScores(q, k).read();
    const [qd, kd] = operands.map((o) => Float64Array.from(o.data)) as [Float64Array, Float64Array];
    let first = 0;
    for (let d = 0; d < D; d++) first += qd[d]! * kd[d]!;
    expect(plain[0]).toBeCloseTo(first * D ** -0.5, 5);
  });

  it("refuses what it does not take", () => {
    const { gpu } = context;
    const x = gpu.zeros([1, 1, 2, 4]);
    expect(() => attentionScores(x, x, { weightSums: undefined } as AttentionWeightsOptions)).toThrow(
      ConfigError,
    );
    expect(() => attentionWeights(undefined as unknown as Tensor, x)).toThrow(
      /q is undefined; it must be a tensor/,
    );
    expect(() => attentionWeights(x, undefined as unknown as Tensor)).toThrow(
      /k is undefined; it must be a tensor/,
    );
  });
});
