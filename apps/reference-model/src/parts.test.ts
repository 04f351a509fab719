import { describe, expect, it } from "vitest";
import { ConfigError, slice } from "@x/kernels";
import { numbers, relativeError, useGpu } from "@x/testing";
import { modelConfig } from "./families/index.js";
import { CausalLM } from "./model/model.js";
import { checkModel, tinyParts } from "./test-support.js";

const cases: Record<string, Record<string, unknown>> = {
  "the plain recipe": {},
  "no encoding": { position: { type: "none" } },
  "post-LN with LayerNorm": { placement: "postLn", norm: { type: "layer" } },
  "sub-LN": { placement: "subLn" },
  "sandwich with 1 + w": { placement: "sandwich", norm: { type: "gemma" } },
  "peri-LN": { placement: "periLn", embedNorm: { type: "rms" } },
  DeepNorm: { placement: "deepnorm", norm: { type: "layer" } },
  "q/k norm, a window and soft caps": {
    mixer: { type: "attention", numHeads: 4, numKvHeads: 1, window: 5, qkNorm: { type: "rms" }, softcap: 20 },
  },
  "a pattern of its own in each layer": {
    mixer: { type: "attention", numHeads: 4, numKvHeads: 2, pattern: { kind: "sparseStrided", stride: 3 } },
    layers: [
      {},
      {
        mixer: {
          type: "attention",
          numHeads: 4,
          pattern: { kind: "random", count: 2, seed: 3, block: 2, causal: true },
        },
      },
    ],
  },
  "a mixture in the second layer": {
    layers: [{}, { ffn: { type: "mixtral", hiddenDim: 24, numExperts: 4, topK: 2 } }],
  },
  "multi-head latent attention": {
    mixer: { type: "mla", numHeads: 4, nopeDim: 8, ropeDim: 4, vDim: 12, kvRank: 20, qRank: 24 },
  },
  "Transformer-XL": {
    position: { type: "none" },
    mixer: { type: "transformerXl", numHeads: 4, segmentLen: 5, memLen: 7 },
  },
  "Memorizing Transformer": {
    mixer: { type: "attention", numHeads: 4 },
    layers: [
      {},
      { mixer: { type: "memorizing", numHeads: 4, numKvHeads: 2, topK: 3, segmentLen: 5, memorySize: 12 } },
    ],
  },
  "recurrent memory": {
    numLayers: 1,
    mixer: { type: "rmt", layers: 2, numHeads: 4, ffnDim: 40, segmentLen: 6, memTokens: 3 },
  },
  YOCO: {
    numLayers: 4,
    mixer: { type: "yoco", numHeads: 4, numKvHeads: 2 },
    layers: [
      { mixer: { type: "attention", numHeads: 4, window: 5 } },
      { mixer: { type: "attention", numHeads: 4, window: 5 } },
      {},
      {},
    ],
  },
  retention: {
    position: { type: "none" },
    mixer: { type: "retention", numHeads: 4, chunkSize: 5, decayNorm: true, decay: "logLinspace" },
  },
  "gated retention": {
    position: { type: "none" },
    mixer: { type: "gatedRetention", numHeads: 2, form: "parallel", headNorm: "layer", gateFn: "gelu" },
  },
  "RWKV-6": {
    position: { type: "none" },
    mixer: { type: "rwkv6", numHeads: 4, mixRank: 4, decayRank: 8 },
  },
  "linear attention": { mixer: { type: "linearAttention", numHeads: 4, chunkSize: 6 } },
  "linear recurrent units": { position: { type: "none" }, mixer: { type: "lru", stateSize: 24 } },
  H3: { position: { type: "none" }, mixer: { type: "h3", headDim: 2, stateSize: 4 } },
  "gated long convolutions": { position: { type: "none" }, mixer: { type: "gatedLongConv", taps: 12 } },
  S4D: { position: { type: "none" }, mixer: { type: "s4d", stateSize: 6 } },
  S5: { position: { type: "none" }, mixer: { type: "s5", stateSize: 12, discretization: "bilinear" } },
  Griffin: {
    mixer: { type: "griffin", lruWidth: 24, numBlocks: 3 },
    layers: [{}, { mixer: { type: "attention", numHeads: 4, numKvHeads: 1, window: 5 } }],
  },
  Mamba: { position: { type: "none" }, mixer: { type: "mamba", stateSize: 4, innerDim: 24 } },
  "Mamba-2": {
    position: { type: "none" },
    mixer: { type: "mamba2", numHeads: 4, headDim: 6, stateSize: 8, numGroups: 2, chunkSize: 4 },
  },
  "RWKV-4's time mixing": { position: { type: "none" }, mixer: { type: "rwkv4", attentionDim: 24 } },
  "the plain block with gelu": { ffn: { type: "ffn", activation: "gelu" } },
  "the plain block without biases, swish per channel": {
    ffn: { type: "ffn", activation: "swish", beta: "channel", bias: false, hiddenDim: 40 },
  },
  "gated with the tanh form of gelu and biases": {
    ffn: { type: "glu", kind: "gegluTanh", bias: true, hiddenDim: 40 },
  },
  "KAN on B-splines": { ffn: { type: "kan", gridSize: 4, gridRange: [-3, 3], hiddenDim: 16 } },
  "KAN on Chebyshev polynomials": { ffn: { type: "kan", basis: "chebyshev", degree: 3 } },
  "KAN on Fourier series": { ffn: { type: "kan", basis: "fourier", gridSize: 3 } },
  "KAN on wavelets": { ffn: { type: "kan", basis: "wavelet", wavelet: "morlet", baseActivation: "silu" } },
  "own head": { tieEmbeddings: false, embedScale: 5.6 },
};

describe("models of parts", () => {
  const device = useGpu();

  it.each(Object.keys(cases))("%s: decoding = the whole pass, causal, trainable", async (name) => {
    const { gpu } = device;
    const before = gpu.memory().liveBytes;
    // An expert may be without tokens in so short a text.
    await checkModel(gpu, tinyParts(cases[name]), { still: [/experts/] });
    expect(gpu.memory().liveBytes).toBe(before);
  });

  it("a prompt passes YOCO's upper layers by but for its last token", async () => {
    const { gpu } = device;
    for (const placement of ["preLn", "postLn", "sandwich"]) {
      const model = CausalLM.init(gpu, modelConfig(tinyParts({ ...cases["YOCO"], placement })), { seed: 3 });
      const [prompt, length] = [11, 16];
      const ids = gpu.tensor(
        numbers(length, 4).map((x) => Math.floor((x + 1) * 20)),
        [1, length],
        "i32",
      );
      const whole = await gpu.scope(() => model.forward(ids)).read();
      const vocab = whole.length / length;
      const state = model.createState({ maxLength: length, maxChunk: prompt });
      const rows: number[] = [];
      const last = gpu.scope(() => {
        const positions = gpu.tensor(
          Array.from({ length: prompt }, (_, i) => i),
          [1, prompt],
          "i32",
        );
        return model.forward(
          slice(ids, { axis: 1, end: prompt }),
          {
            positionIds: positions,
            lastOnly: true,
            runFfn: (block, x, context, residual) => {
              rows.push(x.shape[1]!);
              return block.forward(x, context, residual);
            },
          },
          state,
        );
      });
      expect(rows, placement).toEqual([prompt, prompt, 1, 1]);
      const expected = Float64Array.from(whole.slice((prompt - 1) * vocab, prompt * vocab));
      expect(relativeError(await last.read(), expected), placement).toBeLessThan(2e-5);
      // Without a cache, the last position alone is that of the whole.
      const alone = gpu.scope(() => model.forward(ids, { lastOnly: true }));
      expect(
        relativeError(await alone.read(), Float64Array.from(whole.slice((length - 1) * vocab))),
        placement,
      ).toBeLessThan(2e-5);
      state.dispose();
      model.dispose();
    }
  });

  it("refuses unknown parts, keys and shapes by name", () => {
    const { gpu } = device;
    const make = (change: Record<string, unknown>) => () =>
      CausalLM.init(gpu, modelConfig(tinyParts(change)), { seed: 1 });
    expect(make({ mixer: { type: "hyena" } })).toThrow(/layers\.0 has the mixer "hyena"; known: attention/);
    expect(make({ ffn: { type: "glu", hiddenDims: 3 } })).toThrow(
      /unknown key "hiddenDims"; did you mean "hiddenDim"/,
    );
    expect(make({ ffn: { type: "kan", basis: "fourier", degree: 3 } })).toThrow(
      /degree is given; the basis fourier takes gridSize, bias/,
    );
    expect(make({ ffn: { type: "ffn", activation: "relu", beta: "scalar" } })).toThrow(/only swish has one/);
    expect(make({ mixer: { type: "attention", numHeads: 5 } })).toThrow(/numHeads is 5; .* divide dim, 32/);
    expect(
      make({ mixer: { type: "attention", numHeads: 4, pattern: { kind: "random", count: 1, seed: 1 } } }),
    ).toThrow(/set causal: true to decode/);
    expect(make({ placement: "midLn" })).toThrow(/placement is "midLn"; it must be one of preLn/);
    expect(make({ depth: 3 })).toThrow(ConfigError);
    const before = gpu.memory().liveBytes;
    expect(make({ layers: [{}, { ffn: { type: "nothing" } }] })).toThrow(/layers\.1 has the ffn "nothing"/);
    expect(gpu.memory().liveBytes).toBe(before);
    expect(make({ layers: [{}] })).toThrow(/layers lists 1 layers; numLayers is 2/);
  });
});
