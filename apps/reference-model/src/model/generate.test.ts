import { describe, expect, it } from "vitest";
import { argmax, ConfigError, type Gpu } from "@x/kernels";
import { relativeError, useGpu } from "@x/testing";
import { modelConfig } from "../families/index.js";
import { generate } from "./generate.js";
import { CausalLM } from "./model.js";
import { someIds, tinyParts } from "../test-support.js";

const longrope = {
  type: "longrope",
  shortFactor: [1, 1.05, 1.2, 1.6],
  longFactor: [1.1, 1.9, 3.1, 4.4],
  originalMaxPositionEmbeddings: 16,
  factor: 4,
};
const dynamicNtk = { type: "dynamicNtk", factor: 4, originalMaxPositionEmbeddings: 16 };
const attention = { type: "attention", numHeads: 4, numKvHeads: 2 };
const mla = { type: "mla", numHeads: 4, nopeDim: 8, ropeDim: 8, vDim: 12, kvRank: 20 };

/** Layers that keep a ring, a latent, a grouped cache and a state of their own. */
const mixed = {
  numLayers: 4,
  mixer: attention,
  layers: [
    { mixer: { ...attention, window: 6 } },
    { mixer: mla },
    {},
    { mixer: { type: "retention", numHeads: 4 } },
  ],
};

function modelOf(gpu: Gpu, scaling: Record<string, unknown>, change: Record<string, unknown> = {}): CausalLM {
  const position = { type: "rope", scaling };
  // Large weights, so that the rotations decide what is said.
  const json = tinyParts({ position, embedScale: 40, tieEmbeddings: false, ...change });
  return CausalLM.init(gpu, modelConfig(json), { seed: 5 });
}

/** The best id after each prefix, by a whole pass over that prefix alone. */
async function bestAfter(model: CausalLM, prompt: readonly number[], count: number): Promise<number[]> {
  const ids = [...prompt];
  for (let i = 0; i < count; i++) {
    const best = model.gpu.scope(() =>
      argmax(model.forward(model.gpu.tensor(ids, [1, ids.length], "i32"), { lastOnly: true })),
    );
    ids.push((await best.read())[0]!);
    best.dispose();
  }
  return ids.slice(prompt.length);
}

describe("generating with rotations that look at the length", () => {
  const device = useGpu();

  it.each([
    ["longrope", longrope, {}],
    ["dynamicNtk", dynamicNtk, {}],
    ["longrope, all kinds of state", longrope, mixed],
    ["dynamicNtk, all kinds of state", dynamicNtk, mixed],
  ])(
    "%s: each token is the best one of the logits for the text before it, whatever the limit",
    async (_, scaling, change) => {
      const { gpu } = device;
      const model = modelOf(gpu, scaling, change);
      const prompt = someIds(11);
      const want = await bestAfter(model, prompt, 12);
      // Up to the trained length, across it, and far beyond it.
      for (const maxNewTokens of [4, 12, 60]) {
        const { ids } = await generate(model, prompt, { maxNewTokens, temperature: 0, ignoreEos: true });
        expect(ids.slice(0, 12)).toEqual(want.slice(0, maxNewTokens));
      }
      // A prompt beyond the trained length; nothing of a run stays behind but tables of one size.
      const long = someIds(21);
      const wanted = await bestAfter(model, long, 3);
      const live: number[] = [];
      for (let run = 0; run < 2; run++) {
        const { ids } = await generate(model, long, { maxNewTokens: 3, temperature: 0, ignoreEos: true });
        expect(ids).toEqual(wanted);
        live.push(gpu.memory().liveBytes);
      }
      expect(live[1]).toBe(live[0]);
      model.dispose();
    },
  );

  it("pieces with a state give the logits of the whole pass at each length, for a batch", async () => {
    const { gpu } = device;
    const model = modelOf(gpu, longrope, mixed);
    const state = model.createState({ batch: 2, maxLength: 24, maxChunk: 7 });
    const ids = [someIds(20), someIds(20).reverse()];
    const rows = (from: number, to: number) =>
      gpu.tensor(
        ids.flatMap((list) => list.slice(from, to)),
        [2, to - from],
        "i32",
      );
    const piece = (from: number, to: number, textLength: number) => {
      const at = Array.from({ length: to - from }, (_, i) => from + i);
      const positionIds = gpu.tensor([...at, ...at], [2, to - from], "i32");
      return model.forward(rows(from, to), { positionIds, textLength, lastOnly: true }, state);
    };
    for (const length of [14, 15, 16, 17, 18, 20]) {
      const got = gpu.scope(() => {
        if (length !== 14 && length !== 17) return piece(length === 20 ? 18 : length - 1, length, length);
        // Beyond 16 tokens the text is run again, once.
        state.clear();
        for (let from = 0; from + 7 < length; from += 7) piece(from, from + 7, length);
        return piece(Math.floor((length - 1) / 7) * 7, length, length);
      });
      const whole = gpu.scope(() => model.forward(rows(0, length), { lastOnly: true }));
      expect(relativeError(await got.read(), await whole.read())).toBeLessThan(2e-5);
      got.dispose();
      whole.dispose();
    }
    state.dispose();
    model.dispose();
  });

  it("a state of another length is refused where that makes a difference", () => {
    const { gpu } = device;
    const model = modelOf(gpu, longrope);
    const state = model.createState({ maxLength: 24 });
    const run = (from: number, to: number, textLength?: number) => {
      gpu.scope(() => {
        const at = Array.from({ length: to - from }, (_, i) => from + i);
        const positionIds = gpu.tensor(at, [1, to - from], "i32");
        const input = gpu.tensor(someIds(24).slice(from, to), [1, to - from], "i32");
        model.forward(input, { positionIds, ...(textLength === undefined ? {} : { textLength }) }, state);
      });
    };
    expect(() => {
      run(0, 16);
    }).toThrow(/textLength is missing/);
    run(0, 16, 16);
    expect(() => {
      run(16, 17, 17);
    }).toThrow(ConfigError);
    state.clear();
    run(0, 17, 17);
    run(17, 18, 18);
    state.dispose();
    model.dispose();
  });
});
