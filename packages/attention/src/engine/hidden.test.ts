import { describe, expect, it } from "vitest";
import { e, input, vjp, type Gpu, type ScoreModifier, type Tensor } from "@x/kernels";
import { numbers, product, useGpu } from "@x/testing";
import {
  attention,
  attentionOutputs,
  KVCache,
  cachedAttention,
  gatheredAttention,
  slidingWindow,
  globalTokens,
  type AttentionOptions,
} from "../index.js";

const context = useGpu();
const hardware = useGpu({ hardware: true });

/** One of NaN and the infinities, in turn. */
const poison = (n: number): number => [NaN, Infinity, -Infinity][n % 3]!;

interface Hidden {
  readonly batch?: number;
  readonly queries: number;
  readonly keys: number;
  /** Whether no query sees a key. */
  readonly key: (b: number, j: number) => boolean;
  /** Whether a query sees no key; its cotangent is poisoned too. */
  readonly query?: (b: number, i: number) => boolean;
  readonly options: (gpu: Gpu) => AttentionOptions;
}

/** Outputs and gradients as bits, with zeros or with NaN and infinities in every hidden place. */
async function bits(gpu: Gpu, problem: Hidden, poisoned: boolean): Promise<Int32Array[]> {
  const { batch = 1, queries, keys, key, query } = problem;
  const [heads, kvHeads, dim] = [2, 1, 8];
  const fill = (h: number, n: number, seed: number, hidden?: (b: number, at: number) => boolean): Tensor => {
    const data = numbers(product([batch, h, n, dim]), seed);
    for (let i = 0; i < data.length; i++) {
      const row = Math.floor(i / dim);
      if (hidden?.(Math.floor(row / n / h), row % n)) data[i] = poisoned ? poison(i) : 0;
    }
    return gpu.tensor(data, [batch, h, n, dim]);
  };
  const run = (): Tensor[] => {
    const q = fill(heads, queries, 1, query);
    const [k, v] = [fill(kvHeads, keys, 2, key), fill(kvHeads, keys, 3, key)];
    const cotangent = fill(heads, queries, 4, query);
    const options = problem.options(gpu);
    const terms = options.bias ? [options.bias] : [];
    const plain = attention(q, k, v, options); // not tracked: the keys may be split
    const { outputs, pullback } = vjp(() => [attention(q, k, v, options)], [q, k, v, ...terms]);
    return [plain, ...outputs, ...pullback([cotangent])];
  };
  const found = gpu.scope(run);
  return Promise.all(found.map(async (t) => new Int32Array((await t.read()).buffer.slice(0))));
}

async function expectHidden(gpu: Gpu, problem: Hidden): Promise<void> {
  const [clean, dirty] = [await bits(gpu, problem, false), await bits(gpu, problem, true)];
  clean.forEach((want, n) => {
    expect(dirty[n], `result ${n}`).toEqual(want);
    expect(new Float32Array(want.buffer).every(Number.isFinite)).toBe(true);
  });
}

const every =
  (n: number): ((b: number, j: number) => boolean) =>
  (b, j) =>
    (j + b) % n === 0;
const ints = (gpu: Gpu, shape: readonly number[], of: (b: number, j: number) => number): Tensor =>
  gpu.tensor(
    Int32Array.from({ length: product(shape) }, (_, i) =>
      of(Math.floor(i / shape.at(-1)!), i % shape.at(-1)!),
    ),
    shape,
    "i32",
  );

const maskedEnd: ScoreModifier = {
  kind: "pointwise",
  name: "near",
  expr: e.select(e.gt(input("distance"), 20), -Infinity, input("score")),
};

const problems: Record<string, Hidden> = {
  "a key mask": {
    batch: 2,
    queries: 11,
    keys: 70,
    key: every(3),
    options: (gpu) => ({ keyMask: ints(gpu, [2, 70], (b, j) => (every(3)(b, j) ? 0 : 1)), queryOffset: 0 }),
  },
  "documents, and the rows of padding": {
    queries: 40,
    keys: 40,
    key: (_, j) => j >= 34,
    query: (_, i) => i >= 34,
    options: (gpu) => ({
      docs: ints(gpu, [1, 40], (_, j) => (j >= 34 ? -1 : Math.floor(j / 9))),
      causal: true,
    }),
  },
  "a causal mask and a window": {
    queries: 37,
    keys: 100,
    key: (_, j) => j < 2 || j > 46,
    options: () => ({ causal: true, window: { left: 7, right: 0 }, queryOffset: 10 }),
  },
  "a pattern": {
    queries: 40,
    keys: 90,
    key: (_, j) => j >= 40,
    options: () => ({
      pattern: slidingWindow(5, 0).or(globalTokens([0]).and({ kind: "causal" })),
      queryOffset: 0,
    }),
  },
  "a pattern as WGSL": {
    queries: 20,
    keys: 50,
    key: (_, j) => j % 2 === 1,
    options: () => ({
      pattern: { wgsl: "fn pattern(h: u32, i: i32, j: i32) -> bool { return (j & 1) == 0; }" },
    }),
  },
  "a mask that broadcasts": {
    batch: 2,
    queries: 9,
    keys: 33,
    key: (_, j) => j % 4 === 2,
    options: (gpu) => ({ mask: ints(gpu, [1, 33], (_, j) => (j % 4 === 2 ? 0 : 1)) }),
  },
  "a bias of -inf": {
    queries: 9,
    keys: 33,
    key: (_, j) => j % 4 === 2,
    options: (gpu) => ({
      bias: gpu.tensor(
        Float32Array.from({ length: 33 }, (_, j) => (j % 4 === 2 ? -Infinity : 0.1 * j)),
        [1, 33],
      ),
    }),
  },
  "a modifier that hides": {
    queries: 5,
    keys: 60,
    key: (_, j) => j < 35,
    options: () => ({ modifiers: [maskedEnd], softcap: 20 }),
  },
  "keys in parts": {
    queries: 1,
    keys: 1100,
    key: every(3),
    options: (gpu) => ({ keyMask: ints(gpu, [1, 1100], (b, j) => (every(3)(b, j) ? 0 : 1)) }),
  },
};

describe("what a mask hides", () => {
  for (const [name, problem] of Object.entries(problems))
    it(`is not read into a product: ${name}`, async () => {
      await expectHidden(context.gpu, problem);
    });

  for (const name of ["a key mask", "a causal mask and a window"])
    it(`is not read where lanes share rows, as on a GPU: ${name}`, async () => {
      await expectHidden(hardware.gpu, problems[name]!);
    });

  it("is hidden from the rows before it and read by those that see it", async () => {
    const { gpu } = context;
    const at = 19;
    const rows = (bad: number): Tensor =>
      gpu.tensor(
        numbers(40 * 8, 5).map((x, i) => (i === at * 8 + 3 ? bad : x)),
        [1, 1, 40, 8],
      );
    const k = gpu.tensor(numbers(40 * 8, 6), [1, 1, 40, 8]);
    const read = async (v: Tensor): Promise<number[]> =>
      Array.from(await attention(k, k, v, { causal: true }).read());
    const [zero, nan, inf] = [await read(rows(0)), await read(rows(NaN)), await read(rows(-Infinity))];
    zero.forEach((want, n) => {
      const sees = n >= at * 8 && n % 8 === 3;
      expect(nan[n]).toBe(sees ? NaN : want);
      expect(inf[n]).toBe(sees ? -Infinity : want);
    });
    const { lse } = attentionOutputs(rows(NaN), k, k, { causal: true });
    const sums = Array.from(await lse.read());
    expect(sums.map(Number.isNaN)).toEqual(sums.map((_, i) => i === at));
  });

  it("is hidden where a gathered list does not name it, in gradients too", async () => {
    const { gpu } = context;
    const indices = gpu.tensor([0, 2, -1, 2, -1, -1], [1, 1, 2, 3], "i32");
    const run = async (bad: number): Promise<number[][]> => {
      const store = gpu.tensor(
        numbers(16, 1).map((x, i) => (Math.floor(i / 4) % 2 === 1 ? bad : x)),
        [1, 1, 4, 4],
      );
      const q = gpu.tensor(numbers(8, 2), [1, 1, 2, 4]);
      const r = vjp(() => [gatheredAttention(q, store, store, indices).out], [q, store]);
      return Promise.all(
        [...r.outputs, ...r.pullback(r.outputs)].map(async (t) => Array.from(await t.read())),
      );
    };
    expect(await run(NaN)).toEqual(await run(0));
  });
});

describe("a cache that is cleared", () => {
  for (const [name, window, device] of [
    ["full", undefined, false],
    ["a ring", 6, false],
    ["with positions on the device", undefined, true],
  ] as const)
    it(`forgets NaN and infinity: ${name}`, async () => {
      const { gpu } = context;
      const cache = new KVCache(gpu, {
        batch: 1,
        numKvHeads: 1,
        headDim: 4,
        maxLength: 32,
        window,
        maxChunk: 8,
      });
      const rows = (n: number, seed: number): Tensor => gpu.tensor(numbers(n * 4, seed), [1, n, 1, 4]);
      const step = (x: Tensor, first: number): Tensor =>
        cachedAttention(x, x, x, cache, {
          positions: device ? ints(gpu, [1, x.shape[1]!], (_, j) => first + j) : undefined,
        });
      const texts = async (): Promise<number[][]> => {
        const outs = [step(rows(5, 1), 0), step(rows(1, 2), 5), step(rows(2, 3), 6)];
        return Promise.all(outs.map(async (t) => Array.from(await t.read())));
      };
      const want = await texts();
      for (const bad of [NaN, Infinity, -Infinity]) {
        cache.clear();
        for (let n = 0; n < 4; n++) step(gpu.full([1, 8, 1, 4], bad), 8 * n);
        cache.clear();
        expect(await texts()).toEqual(want);
      }
      cache.dispose();
    });
});
