import { describe, expect, it } from "vitest";
import { gather, slice, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import {
  cachedAttention,
  globalTokens,
  KVCache,
  LatentCache,
  MultiHeadAttention,
  randomBlocks,
} from "../index.js";
import {
  expectCausal,
  expectConstantMemory,
  expectSame,
  inPieces,
  parametersOf,
  random,
  rows,
} from "../test-support.js";

const config = { dim: 20, numHeads: 6, numKvHeads: 2, headDim: 8, causal: true };

describe("caches of keys and values", () => {
  const device = useGpu();

  it.each([
    ["full", {}],
    ["a ring", { window: 5 }],
    [
      "a ring with biases, soft cap and sinks",
      { window: 5, qkvBias: true, outBias: true, softcap: 4, sinks: true },
    ],
  ])("%s: prefill + decode = forward, whatever the pieces", async (_, extra) => {
    const { gpu } = device;
    const own = { ...config, ...extra };
    const layer = new MultiHeadAttention(own, parametersOf(gpu, MultiHeadAttention.plan(own)));
    const x = random(gpu, [2, 19, 20], 7);
    const whole = layer.forward(x);
    for (const pieces of [[9, 1, 1, 8], Array<number>(19).fill(1), [19], [1, 17, 1]]) {
      const cache = layer.createState({ batch: 2, maxLength: 19, maxChunk: 4 });
      const out = inPieces(gpu, x, pieces, (piece) => layer.forward(piece, { state: cache }));
      await expectSame(out, whole);
      cache.dispose();
    }
    await expectCausal(gpu, x, 11, (y) => layer.forward(y));
  });

  it("rows of a batch may stand at positions of their own, on the host or on the device", async () => {
    const { gpu } = device;
    const layer = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)));
    const x = random(gpu, [2, 6, 20], 3);
    // The second row is shorter: left padding of two tokens, which stand nowhere.
    const positions = [0, 1, 2, 3, 4, 5, -1, -1, 0, 1, 2, 3];
    const short = gpu.scope(() => layer.forward(inPieces(gpu, x, [2, 4], (p) => p)));
    const alone = layer.forward(gpu.tensor((await x.read()).slice(8 * 20), [1, 4, 20]));
    for (const given of [positions, gpu.tensor(positions, [2, 6], "i32")]) {
      const cache = layer.createState({ batch: 2, maxLength: 8 });
      const out = layer.forward(x, { state: cache, positions: given });
      const numbers = Array.from(await out.read());
      const tail = gpu.tensor(numbers.slice(8 * 20), [1, 4, 20]);
      await expectSame(tail, alone);
      // Padding sees nothing.
      expect(numbers.slice(6 * 20, 8 * 20).every((n) => n === 0)).toBe(true);
      await expectSame(
        gpu.tensor(numbers.slice(0, 120), [1, 6, 20]),
        gpu.tensor((await short.read()).slice(0, 120), [1, 6, 20]),
      );
      cache.dispose();
    }
  });

  it("keys that a mask hides are held but never seen, packed documents or not", async () => {
    const { gpu } = device;
    const layer = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)));
    const x = random(gpu, [1, 7, 20], 3);
    const keyMask = gpu.tensor([1, 0, 1, 1, 0, 1, 1], [1, 7], "i32");
    for (const docs of [undefined, gpu.tensor([0, 0, 0, 4, 4, 4, 4], [1, 7], "i32")]) {
      const cache = layer.createState({ batch: 1, maxLength: 7 });
      let start = 0;
      const out = inPieces(gpu, x, [3, 1, 3], (piece) => {
        const end = start + piece.shape[1]!;
        const own = { keyMask: rows(keyMask, start, end), ...(docs && { docs: rows(docs, start, end) }) };
        start = end;
        return layer.forward(piece, { state: cache, ...own });
      });
      const whole = layer.outputs(x, { keyMask, docs });
      await expectSame(out, whole.out);
      await expectSame(cache.keys, whole.keys);
      await expectSame(cache.values, whole.values);
      cache.dispose();
    }
  });

  it("packed documents stay apart while decoding", async () => {
    const { gpu } = device;
    const layer = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)));
    const x = random(gpu, [2, 9, 20], 3);
    const docs = gpu.tensor([0, 0, 0, 1, 1, 1, 2, -1, -1, 5, 5, 5, 5, 5, 7, 7, 7, 7], [2, 9], "i32");
    const cache = layer.createState({ batch: 2, maxLength: 12 });
    let start = 0;
    const out = inPieces(gpu, x, [4, 1, 1, 3], (piece) => {
      const end = start + piece.shape[1]!;
      const own = rows(docs, start, end);
      start = end;
      return layer.forward(piece, { state: cache, docs: own });
    });
    await expectSame(out, layer.forward(x, { docs }));
    cache.dispose();
  });

  it("a pattern without a number goes with a cache: tokens that are global are none", async () => {
    const { gpu } = device;
    const parameters = parametersOf(gpu, MultiHeadAttention.plan(config));
    const layer = new MultiHeadAttention({ ...config, pattern: globalTokens([]) }, parameters);
    const cache = layer.createState({ batch: 1, maxLength: 4 });
    const x = random(gpu, [1, 3, 20], 3);
    await expectSame(layer.forward(x, { state: cache }), layer.forward(x));
    cache.dispose();
  });

  it.each([
    ["full", {}],
    ["a ring", { window: 9 }],
  ])("%s: drawn blocks are those of the whole sequence", async (_, extra) => {
    const { gpu } = device;
    const own = { ...config, ...extra };
    const parameters = parametersOf(gpu, MultiHeadAttention.plan(own));
    const pattern = randomBlocks(2, 3, { block: 2, causal: true });
    const layer = new MultiHeadAttention({ ...own, pattern }, parameters);
    const x = random(gpu, [1, 37, 20], 7);
    const cache = layer.createState({ batch: 1, maxLength: 40, maxChunk: 3 });
    const out = inPieces(gpu, x, [9, 1, 1, 3, 1, 22], (piece) => layer.forward(piece, { state: cache }));
    await expectSame(out, layer.forward(x));
    cache.clear();
    const bidirectional = new MultiHeadAttention({ ...own, pattern: randomBlocks(2, 3) }, parameters);
    expect(() => bidirectional.forward(x, { state: cache })).toThrow(/set causal: true to decode/);
    cache.dispose();
  });

  it("decoding holds memory constant", async () => {
    const { gpu } = device;
    const layer = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)));
    const cache = layer.createState({ batch: 1, maxLength: 64 });
    const x = random(gpu, [1, 1, 20], 3);
    await expectConstantMemory(gpu, 40, () => layer.forward(x, { state: cache }));
    expect(cache.length).toBe(40);
    cache.clear();
    expect(cache.length).toBe(0);
    cache.dispose();
  });

  it("rows that are reordered go on with the tokens of the rows that they were given, masks and documents too", async () => {
    const { gpu } = device;
    const layer = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)));
    const x = random(gpu, [3, 7, 20], 5);
    const keyMask = gpu.tensor([1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1], [3, 4], "i32");
    const docs = gpu.tensor([0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0], [3, 4], "i32");
    const order = gpu.tensor([2, 0, 2], [3], "i32");
    const docsAfter = gpu.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0], [3, 3], "i32");
    /** The tokens after the fourth, which follow the rows in `order`. */
    const rest = gather(slice(x, { axis: 1, start: 4 }), order);
    const later = (first: Tensor, given: readonly Tensor[], reorder: boolean): Tensor => {
      const cache = layer.createState({ batch: 3, maxLength: 7 });
      layer.forward(first, { state: cache, keyMask: given[0], docs: given[1] });
      if (reorder) cache.reorder(order);
      const out = layer.forward(rest, { state: cache, docs: docsAfter });
      cache.dispose();
      return out;
    };
    const first = slice(x, { axis: 1, end: 4 });
    const ordered = [first, keyMask, docs].map((one) => gather(one, order));
    await expectSame(later(first, [keyMask, docs], true), later(ordered[0]!, ordered.slice(1), false));
    const cache = layer.createState({ batch: 3, maxLength: 7 });
    expect(() => {
      cache.reorder(gpu.tensor([0, 1], [2], "i32"));
    }).toThrow(/KVCache.reorder: rows has shape/);
    expect(() => {
      cache.reorder(gpu.tensor([0, 1, 2], [3]));
    }).toThrow(/KVCache.reorder: rows/);
    cache.dispose();
    const latents = new LatentCache(gpu, { batch: 2, kvRank: 3, ropeDim: 2, maxLength: 4 });
    const held = random(gpu, [2, 2, 1, 5], 8);
    latents.append(held, latents.place(2));
    latents.reorder(gpu.tensor([1, 1], [2], "i32"));
    const second = Array.from(await held.read()).slice(10);
    const numbers = Array.from(await latents.rows.read());
    expect([numbers.slice(0, 10), numbers.slice(20, 30)]).toEqual([second, second]);
    latents.dispose();
  });

  it("says what a token takes", () => {
    const { gpu } = device;
    const sizes = { batch: 3, maxLength: 16 };
    const cache = new KVCache(gpu, { ...sizes, numKvHeads: 2, headDim: 8 });
    expect(cache.bytesPerToken).toBe(2 * 2 * 8 * 4);
    const latent = new LatentCache(gpu, { ...sizes, kvRank: 12, ropeDim: 4 });
    expect(latent.bytesPerToken).toBe((12 + 4) * 4);
    const ring = new KVCache(gpu, {
      batch: 1,
      maxLength: 4096,
      numKvHeads: 2,
      headDim: 8,
      window: 5,
      maxChunk: 4,
    });
    expect(ring.slots).toBe(8);
    for (const c of [cache, latent, ring]) c.dispose();
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const cache = new KVCache(gpu, { batch: 1, numKvHeads: 2, headDim: 8, maxLength: 4 });
    const k = random(gpu, [1, 3, 2, 8], 1);
    cache.append(k, k);
    expect(() => cache.append(k, k)).toThrow(/position 4 does not fit; the cache holds 4 tokens/);
    expect(cache.length).toBe(3);
    expect(() => cache.append(random(gpu, [1, 1, 3, 8], 1), k)).toThrow(/k has shape \[1, 1, 3, 8\]/);
    const [one, mask] = [random(gpu, [1, 1, 2, 8], 1), gpu.zeros([1, 1])];
    expect(() => cache.append(one, one, undefined, mask)).toThrow("keyMask is f32; it must be i32");
    expect(() => cache.append(k, k, [0, 1])).toThrow(/positions has 2 entries; it must have 3/);
    expect(() => cache.append(k, k, [0, 1, 1.5])).toThrow(/positions is 1.5/);
    const ring = new KVCache(gpu, {
      batch: 1,
      numKvHeads: 2,
      headDim: 8,
      maxLength: 64,
      window: 4,
      maxChunk: 2,
    });
    expect(() => ring.append(k, k)).toThrow(/given 3 tokens; the cache takes at most 2/);
    expect(() => cachedAttention(k, k, k, ring, { window: { left: 9, right: 0 } })).toThrow(
      /the window sees 9 keys to the left; the cache is a ring for a window of 4/,
    );
    cache.append(k, k, gpu.tensor([0, 1, 2], [1, 3], "i32"));
    expect(() => cache.append(k, k)).toThrow(/positions are missing/);
    for (const c of [cache, ring]) c.dispose();
  });
});
