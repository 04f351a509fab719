import { describe, expect, it } from "vitest";
import { e, input, RelativeIndex, vjp, type ScoreModifier, type Tensor } from "@x/kernels";
import { numbers, product, relativeError, useGpu } from "@x/testing";
import { attention, attentionOutputs, globalTokens, slidingWindow, type AttentionOptions } from "../index.js";
import { partsFor } from "./wgsl/split.wgsl.js";

const [HEADS, DIM] = [4, 8];

interface Case {
  readonly keys: number;
  readonly kvHeads?: number;
  readonly seen?: (j: number) => boolean;
  readonly score?: (s: number, h: number, j: number) => number;
  readonly sinks?: readonly number[];
}

/** Float64: one query of each head. */
function reference(c: Case, q: Float32Array, k: Float32Array, v: Float32Array): Float64Array {
  const { keys, kvHeads = 1, seen = () => true, score = (s: number): number => s, sinks } = c;
  const out = new Float64Array(HEADS * DIM);
  for (let h = 0; h < HEADS; h++) {
    const first = Math.floor((h * kvHeads) / HEADS) * keys;
    const s = Array.from({ length: keys }, (_, j) => {
      let x = 0;
      for (let d = 0; d < DIM; d++) x += q[h * DIM + d]! * k[(first + j) * DIM + d]!;
      return seen(j) ? score(x * DIM ** -0.5, h, j) : -Infinity;
    });
    const sink = sinks?.[h] ?? -Infinity;
    const top = s.reduce((a, b) => Math.max(a, b), sink);
    if (top === -Infinity) continue;
    const w = s.map((x) => Math.exp(x - top));
    const z = w.reduce((a, b) => a + b, Math.exp(sink - top));
    w.forEach((x, j) => {
      for (let d = 0; d < DIM; d++) out[h * DIM + d]! += (x / z) * v[(first + j) * DIM + d]!;
    });
  }
  return out;
}

describe("partsFor", () => {
  it("fills the adapter with parts of at least 256 keys, and leaves a full grid whole", () => {
    expect(partsFor({ workgroups: 8, keys: 16384, software: false })).toBe(32);
    expect(partsFor({ workgroups: 8, keys: 1024, software: false })).toBe(4);
    expect(partsFor({ workgroups: 8, keys: 511, software: false })).toBe(1);
    expect(partsFor({ workgroups: 300, keys: 16384, software: false })).toBe(1);
    expect(partsFor({ workgroups: 0, keys: 0, software: true })).toBe(1);
  });
});

for (const [label, features] of [
  ["with the adapter's subgroups", {}],
  ["without subgroups", { subgroups: false }],
] as const)
  describe(`one query over split keys ${label}`, { timeout: 300_000 }, () => {
    const device = useGpu({ features });

    /** Split = whole = float64; the forward of a gradient is whole. */
    async function check(c: Case, options: AttentionOptions): Promise<void> {
      const { gpu } = device;
      const kv = [1, c.kvHeads ?? 1, c.keys, DIM];
      const host = [[1, HEADS, 1, DIM], kv, kv].map((shape, n) => numbers(product(shape), n + 1));
      const [q, k, v] = host.map((x, n) => gpu.tensor(x, n === 0 ? [1, HEADS, 1, DIM] : kv)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const f32 = host.map((x) => Float32Array.from(x)) as [Float32Array, Float32Array, Float32Array];
      const run = (): Tensor[] => {
        const { out, lse } = attentionOutputs(q, k, v, options);
        return [out, lse];
      };
      const [out, lse] = run() as [Tensor, Tensor];
      const again = run()[0]!;
      const whole = vjp(run, [q]);
      const values = await out.read();
      expect(relativeError(values, reference(c, ...f32)), `${c.keys} keys`).toBeLessThan(1e-5);
      expect(relativeError(values, await whole.outputs[0]!.read())).toBeLessThan(1e-5);
      expect([...(await again.read())]).toEqual([...values]);
      const expected = await whole.outputs[1]!.read();
      (await lse.read()).forEach((x, n) => {
        if (expected[n] === -Infinity) expect(x).toBe(-Infinity);
        else expect(Math.abs(x - expected[n]!)).toBeLessThan(1e-4);
      });
      whole.dispose();
      for (const t of [q, k, v, out, lse, again, ...whole.outputs]) t.dispose();
    }

    it("is exact at every length, compiling nothing more for a longer one", async () => {
      for (const keys of [1, 63, 65, 257, 1000]) await check({ keys }, { causal: true });
      const before = device.gpu.counters().pipelines;
      await check({ keys: 5000 }, { causal: true });
      expect(device.gpu.counters().pipelines).toBe(before);
      await check({ keys: 5000, seen: (j) => j >= 3000 }, { causal: true, window: { left: 1999, right: 0 } });
    });

    it("takes parts, and rows, that see nothing, with sinks or without", async () => {
      const { gpu } = device;
      const keys = 1500;
      for (const seen of [(j: number) => j >= 300 && j < 310, (j: number) => j > 1400, () => false]) {
        const keyMask = gpu.tensor(
          Int32Array.from({ length: keys }, (_, j) => (seen(j) ? 1 : 0)),
          [1, keys],
          "i32",
        );
        const sinks = [0.5, -2, 3, 0];
        await check({ keys, seen, kvHeads: 2 }, { keyMask });
        await check({ keys, seen, sinks, kvHeads: 2 }, { keyMask, sinks: gpu.tensor(sinks, [HEADS]) });
      }
    });

    it("takes the slots of a ring, soft caps and slopes", async () => {
      const { gpu } = device;
      const [keys, at] = [1100, 1500];
      // The ring holds the last 1100 of 1501 positions; every seventh slot is empty.
      const place = (j: number): number => (j % 7 === 0 ? -1 : j <= at - keys ? j + keys : j);
      const positions = {
        query: gpu.tensor([at - 100], [1, 1], "i32"),
        key: gpu.tensor(
          Int32Array.from({ length: keys }, (_, j) => place(j)),
          [1, keys],
          "i32",
        ),
      };
      const slopes = [0.01, 0.002, 0.1, 0];
      const alibi: ScoreModifier = {
        kind: "pointwise",
        name: "alibi",
        slopes: gpu.tensor(slopes, [HEADS]),
        expr: e.sub(input("score"), e.mul(input("slope"), input("distance"))),
      };
      await check(
        {
          keys,
          seen: (j) => place(j) >= 0 && place(j) <= at - 100,
          score: (s, h, j) => 2 * Math.tanh(s / 2) - slopes[h]! * (at - 100 - place(j)),
        },
        { causal: true, softcap: 2, modifiers: [alibi], positions },
      );
    });

    it("takes masks, documents, biases and relative terms together", async () => {
      const { gpu } = device;
      const keys = 1100;
      const ints = (shape: number[], of: (n: number) => number): Tensor =>
        gpu.tensor(
          Int32Array.from({ length: product(shape) }, (_, n) => of(n)),
          shape,
          "i32",
        );
      const [table, columns, bias] = [
        [HEADS, 9],
        [1, HEADS, keys, 9],
        [1, HEADS, 1, keys],
      ].map((shape, n) => gpu.tensor(numbers(product(shape), 5 + n), shape)) as [Tensor, Tensor, Tensor];
      const [rows, own, added] = [await table.read(), await columns.read(), await bias.read()];
      const index = new RelativeIndex(9, (d) => Math.min(8, Math.floor(Math.abs(d) / 100)));
      const sinks = [1, 0, -1, 2];
      await check(
        {
          keys,
          sinks,
          seen: (j) => j >= 200 && j % 5 !== 1 && j % 3 !== 2,
          score: (s, h, j) => {
            const r = index.at(keys - 1 - j);
            return (
              5 * Math.tanh(s / 5) + rows[h * 9 + r]! + own[(h * keys + j) * 9 + r]! + added[h * keys + j]!
            );
          },
        },
        {
          causal: true,
          softcap: 5,
          sinks: gpu.tensor(sinks, [HEADS]),
          docs: ints([1, keys], (j) => (j < 200 ? 3 : 4)),
          keyMask: ints([1, keys], (j) => (j % 5 === 1 ? 0 : 1)),
          mask: ints([1, 1, 1, keys], (j) => (j % 3 === 2 ? 0 : 1)),
          bias,
          modifiers: [
            { kind: "relative", name: "table", axes: "h", tensor: table, index },
            { kind: "relative", name: "columns", axes: "bhk", tensor: columns, index },
          ],
        },
      );
      index.dispose();
    });

    it("takes a pattern over positions, and does not visit slots past the query of a cache in order", async () => {
      const { gpu } = device;
      const [keys, at] = [1500, 900];
      const pattern = slidingWindow(299, 0).or(globalTokens([0, 7]));
      const positions = {
        query: gpu.tensor([at], [1, 1], "i32"),
        key: gpu.tensor(
          Int32Array.from({ length: keys }, (_, j) => (j <= at ? j : -1)),
          [1, keys],
          "i32",
        ),
      };
      const seen = (j: number): boolean => j <= at && (at - j <= 299 || j === 0 || j === 7);
      for (const inOrder of [false, true])
        await check({ keys, seen }, { causal: true, pattern, positions: { ...positions, inOrder } });
      // What has never been written may be anything.
      const wide = (n: number): Float64Array =>
        numbers(keys * DIM, n).map((x, i) => (i >= (at + 4) * DIM ? NaN : x));
      const [q, k, v] = [
        gpu.tensor(numbers(HEADS * DIM, 1), [1, HEADS, 1, DIM]),
        gpu.tensor(wide(2), [1, 1, keys, DIM]),
        gpu.tensor(wide(3), [1, 1, keys, DIM]),
      ];
      const out = await attention(q, k, v, {
        causal: true,
        positions: { ...positions, inOrder: true },
      }).read();
      expect([...out].every(Number.isFinite)).toBe(true);
    });

    it("takes [batch, seq, heads, headDim], several rows and f16", async () => {
      const { gpu } = device;
      const dtypes = gpu.features.f16 ? (["f32", "f16"] as const) : (["f32"] as const);
      for (const dtype of dtypes) {
        const make = (shape: number[], seed: number): Tensor =>
          gpu.tensor(numbers(product(shape), seed), shape, dtype);
        const [q, k, v] = [make([2, 3, 2, 6], 1), make([2, 1100, 2, 6], 2), make([2, 1100, 2, 5], 3)];
        const run = (): Tensor => attention(q, k, v, { causal: true, layout: "bshd" });
        const split = run();
        const [whole] = vjp(() => [run()], [q]).outputs;
        expect(split.dtype).toBe(dtype);
        expect(relativeError(await split.read(), await whole!.read())).toBeLessThan(
          dtype === "f16" ? 2e-3 : 1e-5,
        );
      }
    });
  });
