import { describe, expect, it } from "vitest";
import { ConfigError, ShapeError, transpose, type Tensor } from "@x/kernels";
import { numbers, product, useGpu } from "@x/testing";
import { cachedAttention, KVCache, LatentCache, type CachedAttentionOptions } from "../index.js";
import { random } from "../test-support.js";

const context = useGpu();
const sizes = { batch: 2, numKvHeads: 1, headDim: 2, maxLength: 8 };

/** The cache holds exactly what they held. */
async function expectUntouched(
  cache: KVCache,
  work: () => void,
  error: typeof ShapeError | typeof ConfigError,
): Promise<void> {
  const before = [await cache.keys.read(), await cache.values.read()];
  expect(work).toThrow(error);
  expect([await cache.keys.read(), await cache.values.read()]).toEqual(before);
}

describe("a cache refuses", () => {
  const rows = (seq: number, seed = 1): Tensor => random(context.gpu, [2, seq, 1, 2], seed);
  const opened = (window?: number): KVCache => {
    const cache = new KVCache(context.gpu, { ...sizes, window, maxChunk: 4 });
    cache.append(rows(2), rows(2, 2));
    return cache;
  };

  it("keys and values of another count than the queries or the positions", async () => {
    const cache = opened();
    await expectUntouched(cache, () => cachedAttention(rows(2), rows(3), rows(3), cache), ShapeError);
    await expectUntouched(cache, () => cachedAttention(rows(2), rows(2), rows(3), cache), ShapeError);
    await expectUntouched(cache, () => cache.append(rows(3), rows(3), cache.place(2)), ShapeError);
    await expectUntouched(cache, () => cache.append(rows(2), rows(2), cache.place(3)), ShapeError);
    const one = context.gpu.tensor([3, 4], [1, 2], "i32");
    await expectUntouched(cache, () => cache.append(rows(2), rows(2), one), ShapeError);
    await expectUntouched(cache, () => cache.appendDocs(context.gpu.zeros([2, 3], "i32"), one), ShapeError);
    cache.dispose();
  });

  it("rows of a latent cache of another count than the positions", () => {
    const { gpu } = context;
    const cache = new LatentCache(gpu, { batch: 2, kvRank: 3, ropeDim: 2, maxLength: 8 });
    expect(() => cache.append(random(gpu, [2, 3, 1, 5], 1), cache.place(2))).toThrow(ShapeError);
    expect(() => cache.append(random(gpu, [2, 2, 1, 5], 1), gpu.zeros([1, 2], "i32"))).toThrow(ShapeError);
    expect(cache.append(random(gpu, [2, 2, 1, 5], 1), cache.place(2)).query.shape).toEqual([2, 2]);
    cache.dispose();
  });

  it("positions of one row that share a slot", async () => {
    const cache = opened();
    await expectUntouched(cache, () => cache.append(rows(2), rows(2), [3, 3]), ConfigError);
    cache.append(rows(2), rows(2), [3, 4, 3, 5]); // of two rows
    cache.append(rows(2), rows(2), [-1, -1]);
    cache.dispose();
    const ring = opened(3); // 6 slots
    expect(ring.slots).toBe(6);
    await expectUntouched(ring, () => ring.append(rows(2), rows(2), [1, 7]), ConfigError);
    ring.dispose();
  });

  it("options that it does not take", () => {
    const cache = opened();
    const call =
      (options: unknown): (() => Tensor) =>
      () =>
        cachedAttention(rows(1), rows(1), rows(1), cache, options as CachedAttentionOptions);
    expect(call({ layout: "bhsd" })).toThrow(ConfigError);
    expect(call({ keymask: rows(1) })).toThrow('did you mean "keyMask"?');
    cache.dispose();
  });
});

describe("a cache", () => {
  /** ONNX's TensorScatter: past [batch, heads, slots, dim], an update, and where each batch row's begins. */
  it("takes an update at given places, linear and circular", async () => {
    const { gpu } = context;
    const [batch, slots, seq, dim] = [2, 4, 2, 5];
    for (const circular of [false, true]) {
      const past = numbers(product([batch, 1, slots, dim]), 1);
      const update = numbers(product([batch, 1, seq, dim]), 2);
      const begins = circular ? [3, 1] : [2, 1];
      const cache = new KVCache(gpu, {
        batch,
        numKvHeads: 1,
        headDim: dim,
        maxLength: 100,
        window: 3,
        maxChunk: seq,
      });
      const turned = (data: ArrayLike<number>, n: number): Tensor =>
        transpose(gpu.tensor(data, [batch, 1, n, dim]), [0, 2, 1, 3]);
      for (let at = 0; at < slots; at += seq) {
        const cut = Float32Array.from(
          { length: batch * seq * dim },
          (_, n) => past[(Math.floor(n / seq / dim) * slots + at) * dim + (n % (seq * dim))]!,
        );
        const rows = gpu.tensor(cut, [batch, seq, 1, dim]);
        cache.append(rows, rows);
      }
      const positions = begins.flatMap((begin) => Array.from({ length: seq }, (_, t) => slots + begin + t));
      const rows = turned(update, seq);
      cache.append(rows, rows, positions);
      const want = Array.from(past);
      for (let b = 0; b < batch; b++)
        for (let t = 0; t < seq; t++)
          for (let d = 0; d < dim; d++)
            want[(b * slots + ((begins[b]! + t) % slots)) * dim + d] = update[(b * seq + t) * dim + d]!;
      expect(Array.from(await cache.keys.read())).toEqual(want.map(Math.fround));
      cache.dispose();
    }
  });
});
