import { describe, expect, it } from "vitest";
import { e, input, RelativeIndex, ShapeError, vjp, type ScoreModifier, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, product, relativeError, useGpu } from "@x/testing";
import { attention, attentionOutputs, type AttentionOptions } from "../index.js";

interface Problem {
  readonly B: number;
  readonly H: number;
  readonly Hkv: number;
  readonly S: number;
  readonly T: number;
  readonly D: number;
  readonly Dv: number;
  readonly causal?: boolean;
  readonly window?: { left: number; right: number };
  readonly seen?: (b: number, h: number, i: number, j: number) => boolean;
  readonly score?: (s: number, b: number, h: number, i: number, j: number) => number;
  readonly sinks?: ArrayLike<number>;
}

/** Float64 attention; positions of queries are shifted so that the last query sees the last key. */
function reference(
  p: Problem,
): (q: ArrayLike<number>, k: ArrayLike<number>, v: ArrayLike<number>) => Float64Array {
  const { B, H, Hkv, S, T, D, Dv, causal = false, window } = p;
  return (q, k, v) => {
    const out = new Float64Array(B * H * S * Dv);
    for (let b = 0; b < B; b++)
      for (let h = 0; h < H; h++)
        for (let i = 0; i < S; i++) {
          const g = Math.floor((h * Hkv) / H);
          const at = i + T - S;
          const s = Array.from({ length: T }, (_, j) => {
            if (causal && j > at) return -Infinity;
            if (
              window &&
              ((window.left >= 0 && at - j > window.left) || (window.right >= 0 && j - at > window.right))
            )
              return -Infinity;
            if (p.seen && !p.seen(b, h, at, j)) return -Infinity;
            let x = 0;
            for (let d = 0; d < D; d++)
              x += q[((b * H + h) * S + i) * D + d]! * k[((b * Hkv + g) * T + j) * D + d]!;
            x *= D ** -0.5;
            return p.score ? p.score(x, b, h, at, j) : x;
          });
          const sink = p.sinks ? p.sinks[h]! : -Infinity;
          const top = Math.max(...s, sink);
          if (top === -Infinity) continue;
          const w = s.map((x) => Math.exp(x - top));
          const z = w.reduce((x, y) => x + y, 0) + Math.exp(sink - top);
          for (let j = 0; j < T; j++)
            for (let d = 0; d < Dv; d++)
              out[((b * H + h) * S + i) * Dv + d]! += (w[j]! / z) * v[((b * Hkv + g) * T + j) * Dv + d]!;
        }
    return out;
  };
}

const shapes = (p: Problem): [number[], number[], number[]] => [
  [p.B, p.H, p.S, p.D],
  [p.B, p.Hkv, p.T, p.D],
  [p.B, p.Hkv, p.T, p.Dv],
];
const operands = (p: Problem) => shapes(p).map((shape, i) => operand(shape, i + 1));

for (const [label, opened] of [
  ["with the adapter's subgroups", {}],
  ["without subgroups", { features: { subgroups: false } }],
] as const)
  describe(`attention ${label}`, () => {
    const device = useGpu(opened);
    const check = (p: Problem, options: AttentionOptions): Promise<void> =>
      checkOp(device.gpu, (q, k, v) => attention(q, k, v, options), reference(p), operands(p));

    it("is softmax(q k^T / sqrt(d)) v with gradients, at sizes off every tile", async () => {
      await check({ B: 1, H: 1, Hkv: 1, S: 1, T: 1, D: 1, Dv: 1 }, {});
      await check({ B: 2, H: 2, Hkv: 2, S: 5, T: 9, D: 6, Dv: 5 }, {});
      await check({ B: 1, H: 2, Hkv: 1, S: 9, T: 37, D: 4, Dv: 8 }, {});
    });

    it("causal and windowed, forward at several blocks", async () => {
      const { gpu } = device;
      for (const [S, T] of [
        [70, 70],
        [33, 100],
        [1, 77],
      ] as const)
        for (const window of [
          undefined,
          { left: 5, right: 0 },
          { left: 40, right: 3 },
          { left: -1, right: 0 },
        ])
          for (const D of [8, 40]) {
            const p: Problem = {
              B: 1,
              H: 4,
              Hkv: 2,
              S,
              T,
              D,
              Dv: D,
              causal: window === undefined,
              ...(window ? { window } : {}),
            };
            const [q, k, v] = operands(p).map((o) => gpu.tensor(o.data, o.shape)) as [Tensor, Tensor, Tensor];
            const y = gpu.scope(() => attention(q, k, v, { causal: p.causal ?? false, window }));
            const expected = reference(p)(
              ...(operands(p).map((o) => o.data) as [Float64Array, Float64Array, Float64Array]),
            );
            expect(relativeError(await y.read(), expected), JSON.stringify(p)).toBeLessThan(1e-5);
          }
    });

    it("causal and windowed gradients with grouped heads", async () => {
      await check({ B: 2, H: 4, Hkv: 2, S: 11, T: 11, D: 4, Dv: 4, causal: true }, { causal: true });
      await check(
        { B: 1, H: 3, Hkv: 1, S: 13, T: 19, D: 8, Dv: 4, window: { left: 4, right: 2 } },
        { window: { left: 4, right: 2 } },
      );
    });

    it("gradients over several blocks equal those of a dense mask", async () => {
      const { gpu } = device;
      const p: Problem = { B: 1, H: 4, Hkv: 2, S: 75, T: 75, D: 36, Dv: 36 };
      const [q, k, v] = operands(p).map((o) => gpu.tensor(o.data, o.shape)) as [Tensor, Tensor, Tensor];
      const g = gpu.tensor(numbers(product([1, 4, 75, 36]), 9), [1, 4, 75, 36]);
      const mask = gpu.tensor(
        Int32Array.from({ length: 75 * 75 }, (_, n) =>
          n % 75 <= Math.floor(n / 75) && Math.floor(n / 75) - (n % 75) <= 20 ? 1 : 0,
        ),
        [75, 75],
        "i32",
      );
      const sparse = vjp(
        () => [attention(q, k, v, { causal: true, window: { left: 20, right: 0 } })],
        [q, k, v],
      ).pullback([g]);
      const dense = vjp(() => [attention(q, k, v, { mask })], [q, k, v]).pullback([g]);
      for (const i of [0, 1, 2])
        expect(relativeError(await sparse[i]!.read(), await dense[i]!.read())).toBeLessThan(1e-5);
    });

    it("takes soft caps, slopes, relative terms, biases and sinks, with gradients", async () => {
      const { gpu } = device;
      const p: Problem = { B: 2, H: 2, Hkv: 1, S: 4, T: 6, D: 4, Dv: 4, causal: true };
      const index = new RelativeIndex(3, (d) => Math.min(2, Math.abs(d)));
      const slopes = gpu.tensor([0.5, 0.1], [2]);
      const alibi: ScoreModifier = {
        kind: "pointwise",
        name: "alibi",
        slopes,
        expr: e.sub(input("score"), e.mul(input("slope"), e.abs(input("distance")))),
      };
      const extra = [
        operand([2, 3], 4),
        operand([2, 2, 4, 3], 5),
        operand([2, 2, 6, 3], 6),
        operand([2, 1, 4, 6], 7),
        operand([2], 8),
      ];
      await checkOp(
        gpu,
        (q, k, v, table, rows, columns, bias, sinks) =>
          attention(q, k, v, {
            causal: true,
            softcap: 2,
            bias,
            sinks,
            modifiers: [
              alibi,
              { kind: "relative", name: "table", axes: "h", tensor: table, index },
              { kind: "relative", name: "rows", axes: "bhq", tensor: rows, index },
              { kind: "relative", name: "columns", axes: "bhk", tensor: columns, index },
            ],
          }),
        (q, k, v, table, rows, columns, bias, sinks) =>
          reference({
            ...p,
            sinks: sinks,
            score: (s, b, h, at, j) => {
              const r = index.at(at - j);
              const i = at - 2;
              return (
                2 * Math.tanh(s / 2) -
                [0.5, 0.1][h]! * Math.abs(at - j) +
                table[h * 3 + r]! +
                rows[((b * 2 + h) * 4 + i) * 3 + r]! +
                columns[((b * 2 + h) * 6 + j) * 3 + r]! +
                bias[(b * 4 + i) * 6 + j]!
              );
            },
          })(q, k, v),
        [...operands(p), ...extra],
      );
      index.dispose();
    });

    it("takes key masks and documents; a row that sees nothing gives zeros and no gradient", async () => {
      const { gpu } = device;
      const p: Problem = { B: 2, H: 2, Hkv: 2, S: 5, T: 5, D: 4, Dv: 4, causal: true };
      const keep = [1, 0, 1, 1, 1, 0, 0, 0, 1, 1];
      const keyMask = gpu.tensor(keep, [2, 5], "i32");
      await check({ ...p, seen: (b, _, __, j) => keep[b * 5 + j] === 1 }, { causal: true, keyMask });
      const ids = [0, 0, 1, 1, 1, 3, 3, -1, -1, 2];
      const docs = gpu.tensor(ids, [2, 5], "i32");
      await check(
        { ...p, seen: (b, _, i, j) => ids[b * 5 + j]! >= 0 && ids[b * 5 + j] === ids[b * 5 + i] },
        { causal: true, docs },
      );
      const [q, k, v] = operands(p).map((o) => gpu.tensor(o.data, o.shape)) as [Tensor, Tensor, Tensor];
      const { out, lse } = attentionOutputs(q, k, v, { causal: true, docs });
      expect([...(await out.read())].slice((1 * 2 * 5 + 2) * 4, (1 * 2 * 5 + 4) * 4)).toEqual([
        0, 0, 0, 0, 0, 0, 0, 0,
      ]);
      expect((await lse.read())[1 * 2 * 5 + 2]).toBe(-Infinity);
    });

    it("gives lse and sums of weights by distance, with gradients", async () => {
      const p: Problem = { B: 1, H: 2, Hkv: 1, S: 4, T: 4, D: 3, Dv: 4, causal: true };
      const index = new RelativeIndex(2, (d) => (d > 1 ? 1 : 0));
      await checkOp(
        device.gpu,
        (q, k, v) => {
          const r = attentionOutputs(q, k, v, { causal: true, weightSums: index });
          return [r.out, r.lse, r.weightSums!];
        },
        (q, k, v) => {
          const ones = new Float64Array(4 * 4).map((_, n) => (n % 5 === 0 ? 1 : 0));
          // Weights themselves: values that pick each key.
          const weights = reference({ ...p, Dv: 4 })(q, k, ones);
          const lse: number[] = [];
          const sums: number[] = [];
          for (let h = 0; h < 2; h++)
            for (let i = 0; i < 4; i++) {
              let z = 0;
              for (let j = 0; j <= i; j++)
                z += Math.exp(
                  [0, 1, 2].reduce((x, d) => x + q[(h * 4 + i) * 3 + d]! * k[j * 3 + d]!, 0) * 3 ** -0.5,
                );
              lse.push(Math.log(z));
              const w = [0, 0];
              for (let j = 0; j <= i; j++) w[index.at(i - j)]! += weights[(h * 4 + i) * 4 + j]!;
              sums.push(...w);
            }
          return [...reference(p)(q, k, v), ...lse, ...sums];
        },
        operands(p),
      );
      index.dispose();
    });

    it("takes [batch, seq, heads, headDim] as it is", async () => {
      const { gpu } = device;
      const p: Problem = { B: 2, H: 4, Hkv: 2, S: 6, T: 6, D: 4, Dv: 4, causal: true };
      const swap = (x: Float64Array, n: number, h: number): Float64Array =>
        x.map((_, at) => {
          const [d, head, s, b] = [
            at % 4,
            Math.floor(at / 4) % h,
            Math.floor(at / 4 / h) % n,
            Math.floor(at / 4 / h / n),
          ];
          return x[((b * h + head) * n + s) * 4 + d]!;
        });
      const [q, k, v] = operands(p);
      const y = attention(
        gpu.tensor(swap(q!.data, 6, 4), [2, 6, 4, 4]),
        gpu.tensor(swap(k!.data, 6, 2), [2, 6, 2, 4]),
        gpu.tensor(swap(v!.data, 6, 2), [2, 6, 2, 4]),
        { causal: true, layout: "bshd" },
      );
      expect(relativeError(await y.read(), swap(reference(p)(q!.data, k!.data, v!.data), 6, 4))).toBeLessThan(
        1e-5,
      );
    });

    it("takes f16", async ({ skip }) => {
      const { gpu } = device;
      if (!gpu.features.f16) skip("the adapter has no shader-f16");
      const p: Problem = { B: 1, H: 2, Hkv: 1, S: 20, T: 20, D: 16, Dv: 16, causal: true };
      const half = operands(p).map((o) => gpu.tensor(o.data, o.shape, "f16"));
      const host = await Promise.all(half.map((t) => t.read()));
      const y = attention(half[0]!, half[1]!, half[2]!, { causal: true });
      expect(y.dtype).toBe("f16");
      expect(relativeError(await y.read(), reference(p)(host[0]!, host[1]!, host[2]!))).toBeLessThan(2e-3);
    });

    it("refuses what does not fit", () => {
      const { gpu } = device;
      const t = (...shape: number[]): Tensor => gpu.zeros(shape);
      expect(() => attention(t(1, 3, 4, 8), t(1, 2, 4, 8), t(1, 2, 4, 8))).toThrow(/q has 3 heads, k has 2/);
      expect(() => attention(t(1, 2, 4, 8), t(1, 2, 4, 6), t(1, 2, 4, 8))).toThrow(ShapeError);
      expect(() => attention(t(2, 4, 8), t(1, 2, 4, 8), t(1, 2, 4, 8))).toThrow(/q has shape \[2, 4, 8\]/);
      expect(() => attention(t(1, 1, 2, 4), t(1, 1, 2, 4), t(1, 1, 2, 4), { keyMask: t(1, 2) })).toThrow(
        /keyMask is f32/,
      );
      const run = (options: object) => () => attention(t(1, 1, 2, 4), t(1, 1, 2, 4), t(1, 1, 2, 4), options);
      expect(run({ casual: true })).toThrow(/did you mean "causal"/);
      expect(run({ window: 4 })).toThrow(
        "attention: window: the configuration (left, right) is 4; it must be an object",
      );
      expect(run({ window: { lft: 4 } })).toThrow(/unknown key "lft"/);
      for (const queryOffset of [0.5, NaN, "1"])
        expect(run({ queryOffset })).toThrow(/queryOffset is .*; it must be an integer/);
      const docs = gpu.zeros([1, 2], "i32");
      for (const queryOffset of [-1, 1])
        expect(run({ docs, queryOffset })).toThrow(/of each of the 2 keys; the queries are at/);
      for (const pattern of [null, "causal", []]) expect(run({ pattern })).toThrow(/an object with a kind/);
    });
  });

// Kernels of a GPU's form take a software adapter long to compile: two problems that take every path of theirs.
describe("attention with subgroups as on a GPU", () => {
  const device = useGpu({ hardware: true });

  it("is the reference, with gradients: grouped heads, windows, several tiles", async () => {
    const p: Problem = { B: 1, H: 4, Hkv: 2, S: 21, T: 45, D: 8, Dv: 12, causal: true };
    const window = { left: 9, right: 0 };
    await checkOp(
      device.gpu,
      (q, k, v) => attention(q, k, v, { causal: true, window }),
      reference({ ...p, window }),
      operands(p),
    );
  });

  it("is the reference, with gradients: soft caps, and sinks that take from rows", async () => {
    const p: Problem = { B: 2, H: 2, Hkv: 1, S: 9, T: 37, D: 4, Dv: 8 };
    const sinks = Float32Array.of(0.7, -0.4);
    await checkOp(
      device.gpu,
      (q, k, v) => attention(q, k, v, { softcap: 1.5, sinks: device.gpu.tensor(sinks, [2]) }),
      reference({ ...p, sinks, score: (s) => 1.5 * Math.tanh(s / 1.5) }),
      operands(p),
    );
  });
});
