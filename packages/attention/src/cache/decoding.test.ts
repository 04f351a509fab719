import fc from "fast-check";
import { describe, it } from "vitest";
import { add, matmul, mul, RelativeIndex, transpose, type Gpu, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import {
  MemorizingAttention,
  MultiHeadAttention,
  MultiHeadLatentAttention,
  RecurrentMemoryTransformer,
  Sled,
  TransformerXl,
  TransformerXlAttention,
  Yoco,
  type AttentionParts,
} from "../index.js";
import { expectSame, inPieces, parametersOf, random } from "../test-support.js";

/** A mechanism made once: its whole run, and a fresh decoding run of at most `length` tokens. */
interface Decodes {
  readonly whole: (x: Tensor) => Tensor;
  readonly decode: (
    batch: number,
    length: number,
  ) => { step: (piece: Tensor) => Tensor; state: { dispose(): void } };
}

const DIM = 8;
const heads = { dim: DIM, numHeads: 4, numKvHeads: 2, headDim: 4 };
const block = { dim: DIM, numHeads: 2, headDim: 4, ffnDim: 12 };

function multiHead(gpu: Gpu, extra: object, parts?: AttentionParts): Decodes {
  const config = { ...heads, causal: true, ...extra };
  const layer = new MultiHeadAttention(config, parametersOf(gpu, MultiHeadAttention.plan(config)), parts);
  return {
    whole: (x) => layer.forward(x),
    decode: (batch, maxLength) => {
      const cache = layer.createState({ batch, maxLength, maxChunk: 3 });
      return { step: (piece) => layer.forward(piece, { state: cache }), state: cache };
    },
  };
}

const mechanisms: Readonly<Record<string, (gpu: Gpu) => Decodes>> = {
  "grouped heads": (gpu) => multiHead(gpu, {}),
  "one key head": (gpu) => multiHead(gpu, { numKvHeads: 1 }),
  "a window's ring": (gpu) => multiHead(gpu, { window: 4 }),
  "a window's ring with sinks": (gpu) =>
    multiHead(gpu, { window: 3, sinks: true, qkvBias: true, outBias: true }),
  "a ring with a gate, clipping and biases of distance": (gpu) => {
    const index = new RelativeIndex(5, (distance) => Math.min(Math.max(distance, 0), 4));
    const table = random(gpu, [4, 5], 5);
    return multiHead(
      gpu,
      { window: 4, outputGate: "element", qkvClip: 0.4 },
      {
        position: {
          scores: (q) => ({
            query: mul(q, 2),
            modifiers: [{ kind: "relative", name: "table", axes: "h", tensor: table, index }],
          }),
          values: {
            index,
            add: (out, sums) => add(out, transpose(matmul(sums, random(gpu, [5, 4], 6)), [0, 2, 1, 3])),
          },
        },
      },
    );
  },
  "latent keys (MLA)": (gpu) => {
    const config = { dim: DIM, numHeads: 3, nopeDim: 5, ropeDim: 4, vDim: 7, kvRank: 6 };
    const layer = new MultiHeadLatentAttention(
      config,
      parametersOf(gpu, MultiHeadLatentAttention.plan(config)),
    );
    return {
      whole: (x) => layer.forward(x),
      decode: (batch, maxLength) => {
        const cache = layer.createState({ batch, maxLength });
        return { step: (piece) => layer.forward(piece, { state: cache }), state: cache };
      },
    };
  },
  "segments (Transformer-XL)": (gpu) => {
    const config = { dim: DIM, numHeads: 2, headDim: 5, clampLen: 4, segmentLen: 4, memLen: 6 };
    const layer = new TransformerXlAttention(config, parametersOf(gpu, TransformerXlAttention.plan(config)));
    return {
      whole: (x) => layer.forward(x),
      decode: (batch, maxLength) => {
        const state = layer.createState({ batch, maxLength, maxChunk: 3 });
        return { step: (piece) => layer.forward(piece, { state }), state };
      },
    };
  },
  "a stack of segments (Transformer-XL)": (gpu) => {
    const config = { dim: DIM, numHeads: 2, ffnDim: 12, layers: 2, segmentLen: 4, memLen: 6 };
    const stack = new TransformerXl(config, parametersOf(gpu, TransformerXl.plan(config)));
    return {
      whole: (x) => stack.forward(x),
      decode: (batch, maxLength) => {
        const state = stack.createState({ batch, maxLength, maxChunk: 3 });
        return { step: (piece) => stack.forward(piece, { state }), state };
      },
    };
  },
  "recurrent memory (RMT)": (gpu) => {
    const config = { ...block, layers: 1, segmentLen: 5, memTokens: 2, mode: "decoder" } as const;
    const model = new RecurrentMemoryTransformer(
      config,
      parametersOf(gpu, RecurrentMemoryTransformer.plan(config)),
    );
    return {
      whole: (x) => model.forward(x),
      decode: (batch) => {
        const state = model.createState({ batch });
        return { step: (piece) => model.forward(piece, { state }), state };
      },
    };
  },
  "a memory of keys (Memorizing)": (gpu) => {
    const config = { ...heads, topK: 3, combine: "gate", segmentLen: 4, memorySize: 9 } as const;
    const layer = new MemorizingAttention(config, parametersOf(gpu, MemorizingAttention.plan(config)));
    return {
      whole: (x) => layer.forward(x),
      decode: (batch) => {
        const state = layer.createState({ batch });
        return { step: (piece) => layer.forward(piece, { state }), state };
      },
    };
  },
  "one cache for the upper half (YOCO)": (gpu) => {
    const config = { ...block, numKvHeads: 1, selfLayers: 1, crossLayers: 1, window: 4 };
    const model = new Yoco(config, parametersOf(gpu, Yoco.plan(config)));
    return {
      whole: (x) => model.forward(x),
      decode: (batch, maxLength) => {
        const state = model.createState({ batch, maxLength, maxChunk: 3 });
        return { step: (piece) => model.forward(piece, { state }), state };
      },
    };
  },
  "the decoder over a document (SLED)": (gpu) => {
    const config = { ...block, layers: 1, decLayers: 1, contextSize: 8, windowFraction: 0.5 };
    const model = new Sled(config, parametersOf(gpu, Sled.plan(config)));
    const document = (batch: number): Tensor => random(gpu, [batch, 13, DIM], 9);
    return {
      whole: (y) => model.forward(document(y.shape[0]!), { y }),
      decode: (batch, maxLength) => {
        const context = model.encode(document(batch));
        const state = model.createState({ batch, maxLength });
        return { step: (piece) => model.decode(piece, { context, state }), state };
      },
    };
  },
};

/** A length cut into pieces at random. */
const pieces = fc
  .integer({ min: 1, max: 21 })
  .chain((length) =>
    fc
      .subarray(Array.from({ length: length - 1 }, (_, i) => i + 1))
      .map((cuts) => [...cuts, length].map((end, i) => end - (cuts[i - 1] ?? 0))),
  );

describe("prefill + decode = forward, however a text is cut", () => {
  const device = useGpu();

  it.each(Object.keys(mechanisms))("%s", async (name) => {
    const { gpu } = device;
    const { whole, decode } = mechanisms[name]!(gpu);
    await fc.assert(
      fc.asyncProperty(pieces, fc.integer({ min: 1, max: 2 }), async (lengths, batch) => {
        const length = lengths.reduce((a, b) => a + b, 0);
        const x = random(gpu, [batch, length, DIM], length);
        const run = decode(batch, length);
        const [expected, out] = [gpu.scope(() => whole(x)), inPieces(gpu, x, lengths, run.step)];
        await expectSame(out, expected);
        run.state.dispose();
        for (const t of [x, expected, out]) t.dispose();
      }),
      { numRuns: 12, seed: 1 },
    );
  });
});
