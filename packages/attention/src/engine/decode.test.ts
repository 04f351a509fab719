import { describe, expect, it } from "vitest";
import { e, input, vjp, type ScoreModifier, type Tensor } from "@x/kernels";
import { numbers, product, relativeError, useGpu } from "@x/testing";
import { attention, attentionOutputs, type AttentionOptions } from "../index.js";
import { partsFor } from "./split.wgsl.js";

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
