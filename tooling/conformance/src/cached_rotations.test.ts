import { describe, expect, it } from "vitest";
import {
  MultiHeadAttention,
  MultiHeadLatentAttention,
  Yoco,
  type KVCache,
  type LatentCache,
  type TokenPositions,
  type YocoCache,
} from "@x/attention";
import { concat, ConfigError, randomNormal, slice, type Gpu, type Tensor } from "@x/kernels";
import { RotaryEmbedding, type RopeScaling } from "@x/positional";
import { relativeError, useGpu } from "@x/testing";

const TRAINED = 8;
const DIM = 16;

/** Rotations whose frequencies depend on the length of the text; heads have 8 features. */
const scalings: Readonly<Record<string, RopeScaling>> = {
  longrope: {
    type: "longrope",
    shortFactor: [1, 1, 1, 1],
    longFactor: [2, 3, 5, 9],
    originalMaxPositionEmbeddings: TRAINED,
    factor: 4,
  },
  dynamicNtk: { type: "dynamicNtk", factor: 4, originalMaxPositionEmbeddings: TRAINED },
};

interface Options {
  readonly positions?: TokenPositions;
  readonly textLength?: number;
}
type Cache = KVCache | LatentCache | YocoCache;

/** A mechanism that rotates with a given embedding. */
interface Subject {
  readonly cache: (maxLength: number) => Cache;
  readonly run: (x: Tensor, cache?: Cache, options?: Options) => Tensor;
}

interface Plan {
  readonly [name: string]: { readonly shape: readonly number[] };
}

/** Large enough for positions to matter to the softmax. */
const drawn = (gpu: Gpu, plan: Plan): Record<string, Tensor> =>
  Object.fromEntries(
    Object.entries(plan).map(([name, { shape }], stream) => [
      name,
      randomNormal(gpu, shape, { seed: 1, stream, std: 0.5 }),
    ]),
  );

const subjects: Readonly<Record<string, (gpu: Gpu, rope: RotaryEmbedding) => Subject>> = {
  MultiHeadAttention: (gpu, rope) => {
    const config = { dim: DIM, numHeads: 2, headDim: 8, causal: true };
    const layer = new MultiHeadAttention(config, drawn(gpu, MultiHeadAttention.plan(config)), { rope });
    return {
      cache: (maxLength) => layer.createState({ batch: 1, maxLength }),
      run: (x, cache, options) => layer.forward(x, { state: cache as KVCache | undefined, ...options }),
    };
  },
  MultiHeadLatentAttention: (gpu, rope) => {
    const config = { dim: DIM, numHeads: 2, nopeDim: 4, ropeDim: 8, vDim: 6, kvRank: 12 };
    const parameters = drawn(gpu, MultiHeadLatentAttention.plan(config));
    const layer = new MultiHeadLatentAttention(config, parameters, { rope });
    return {
      cache: (maxLength) => layer.createState({ batch: 1, maxLength }),
      run: (x, cache, options) => layer.forward(x, { state: cache as LatentCache | undefined, ...options }),
    };
  },
  Yoco: (gpu, rope) => {
    const config = {
      dim: DIM,
      numHeads: 2,
      headDim: 8,
      ffnDim: 12,
      selfLayers: 1,
      crossLayers: 1,
      window: 4,
    };
    const model = new Yoco(config, drawn(gpu, Yoco.plan(config)), { rope });
    return {
      cache: (maxLength) => model.createState({ batch: 1, maxLength }),
      run: (x, cache, options) => model.forward(x, { state: cache as YocoCache | undefined, ...options }),
    };
  },
};

const cases = Object.keys(subjects).flatMap((name) =>
  Object.keys(scalings).map((scaling) => [name, scaling] as const),
);

/** Outputs of consecutive pieces, joined. */
function inPieces(
  x: Tensor,
  lengths: readonly number[],
  run: (piece: Tensor, start: number) => Tensor,
): Tensor {
  return x.gpu.scope(() => {
    let start = 0;
    return concat(
      lengths.map((n) => {
        const piece = slice(x, { axis: 1, start, end: start + n });
        const out = run(piece, start);
        start += n;
        return out;
      }),
      1,
    );
  });
}

describe.each(cases)("%s with %s", (name, scaling) => {
  const device = useGpu();
  const make = (): Subject & { text: (n: number) => Tensor } => {
    const { gpu } = device;
    const rope = new RotaryEmbedding({
      headDim: 8,
      layout: "interleaved",
      scaling: scalings[scaling]!,
    });
    return {
      ...subjects[name]!(gpu, rope),
      text: (n) => slice(randomNormal(gpu, [1, 32, DIM], { seed: 2 }), { axis: 1, end: n }),
    };
  };
  const error = async (a: Tensor, b: Tensor): Promise<number> =>
    relativeError(await a.read(), await b.read());

  it("pieces through a cache are the whole text's rows, whatever the cache could hold", async () => {
    const { cache, run, text } = make();
    for (const capacity of [6, 20]) {
      const x = text(6);
      const held = cache(capacity);
      expect(
        await error(
          inPieces(x, [3, 1, 2], (piece) => run(piece, held)),
          run(x),
        ),
      ).toBeLessThan(1e-5);
      held.dispose();
    }
    // One piece, longer than what was trained.
    const held = cache(20);
    expect(await error(run(text(13), held), run(text(13)))).toBeLessThan(1e-5);
    held.dispose();
  });

  it("pieces that are told the length of the whole text are rotated for it", async () => {
    const { cache, run, text } = make();
    const [x, whole, held] = [text(13), run(text(13)), cache(20)];
    const told = inPieces(x, [5, 1, 7], (piece) => run(piece, held, { textLength: 13 }));
    expect(await error(told, whole)).toBeLessThan(1e-5);
    held.clear();
    const placed = inPieces(x, [5, 1, 7], (piece, start) => {
      const n = piece.shape[1]!;
      const positions = device.gpu.tensor(
        Int32Array.from({ length: n }, (_, i) => start + i),
        [1, n],
        "i32",
      );
      return run(piece, held, { positions, textLength: 13 });
    });
    expect(await error(placed, whole)).toBeLessThan(1e-5);
    // The length matters: rotated for what the cache could hold, a short text has other rows.
    held.clear();
    expect(await error(run(text(6), held, { textLength: 20 }), run(text(6)))).toBeGreaterThan(1e-3);
    held.dispose();
  });

  it("refuses to go on where the keys held are stale, and runs the whole text again after clear", async () => {
    const { cache, run, text } = make();
    const [x, held] = [text(9), cache(20)];
    inPieces(x, [5, 3], (piece) => run(piece, held));
    const next = slice(x, { axis: 1, start: 8 });
    for (let twice = 0; twice < 2; twice++)
      expect(() => run(next, held)).toThrow(
        "the cache holds a text of 8 tokens, rotated otherwise than one of 9 tokens; clear the cache and run the whole text again",
      );
    expect(held.length).toBe(8);
    held.clear();
    expect(await error(run(x, held), run(x))).toBeLessThan(1e-5);
    held.dispose();
  });

  it("needs textLength where the positions are on the device, and takes one that fits", () => {
    const { cache, run, text } = make();
    const [x, held] = [text(3), cache(20)];
    const positions = device.gpu.tensor([0, 1, 2], [1, 3], "i32");
    expect(() => run(x, held, { positions })).toThrow(/textLength is missing/);
    expect(() => run(x, held, { textLength: 2 })).toThrow(/textLength is 2/);
    expect(() => run(x, held, { textLength: 21 })).toThrow(/textLength is 21/);
    expect(() => run(x, undefined, { textLength: 3 })).toThrow(ConfigError);
    // A cache in which all lengths are rotated alike needs none.
    const short = cache(TRAINED);
    run(x, short, { positions });
    for (const one of [held, short]) one.dispose();
  });
});
