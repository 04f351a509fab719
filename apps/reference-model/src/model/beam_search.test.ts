import { describe, expect, it } from "vitest";
import { ConfigError, logSoftmax, repeat, type Gpu, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import { encoderDecoderConfig, modelConfig } from "../families/index.js";
import { someIds, tinyParts } from "../test-support.js";
import { beamSearch, type BeamOptions } from "./beam_search.js";
import { EncoderDecoderLM } from "./encoder_decoder.js";
import { generate } from "./generate.js";
import { Hypotheses, type BeamRules } from "./hypotheses.js";
import { CausalLM, type Decoder } from "./model.js";

const EOS = 1;
const VOCAB = 4;

/** Larger weights, so that texts differ in what they are worth. */
async function strong(parameters: Readonly<Record<string, Tensor>>): Promise<void> {
  for (const [name, tensor] of Object.entries(parameters))
    if (!name.includes("norm")) tensor.write(Float32Array.from(await tensor.read(), (x) => 20 * x));
}

async function tinyT5(gpu: Gpu, vocab = VOCAB): Promise<EncoderDecoderLM> {
  const sizes = { d_model: 8, d_kv: 4, d_ff: 12, num_heads: 2, num_layers: 1, vocab_size: vocab };
  const json = { model_type: "t5", ...sizes, tie_word_embeddings: false, eos_token_id: EOS };
  const model = EncoderDecoderLM.init(gpu, encoderDecoderConfig(json), { seed: 11 });
  await strong(model.parameters());
  return model;
}

/** A decoder that has read a text, with one row of it for each beam. */
function reading(model: EncoderDecoderLM, ids: readonly number[], rows: number): [Decoder, Tensor] {
  const { gpu } = model;
  const states = gpu.scope(() =>
    repeat(model.encode(gpu.tensor(ids, [1, ids.length], "i32")).states, rows, 0),
  );
  return [model.conditioned({ states }), states];
}

/** The same model, but its states are of no use after another token. */
const uncached = (model: Decoder): Decoder => ({
  ...{ gpu: model.gpu, config: model.config, positions: model.positions, context: model.context },
  changes: () => true,
  createState: (options) => model.createState(options),
  hidden: (...given) => model.hidden(...given),
  head: (hidden) => model.head(hidden),
  forward: (...given) => model.forward(...given),
});

/** All texts of at most `most` ids that end with the end-of-text id or at `most`, with their sums, by whole passes. */
async function allTexts(
  model: Decoder,
  start: number,
  most: number,
): Promise<{ ids: number[]; sum: number }[]> {
  const { gpu } = model;
  const logs = async (ids: readonly number[]): Promise<number[]> => {
    const made = gpu.scope(() =>
      logSoftmax(model.forward(gpu.tensor([start, ...ids], [1, ids.length + 1], "i32"), { lastOnly: true })),
    );
    const numbers = Array.from(await made.read());
    made.dispose();
    return numbers;
  };
  const out: { ids: number[]; sum: number }[] = [];
  const walk = async (ids: number[], sum: number): Promise<void> => {
    if (ids.length === most || ids.at(-1) === EOS) {
      out.push({ ids, sum });
      return;
    }
    for (const [id, log] of (await logs(ids)).entries()) await walk([...ids, id], sum + log);
  };
  await walk([], 0);
  return out;
}

describe("beam search", () => {
  const device = useGpu();

  it.each([1, 0, 2.5, -1])(
    "finds the best of all texts where beams cover everything, with the length penalty %d",
    async (lengthPenalty) => {
      const model = await tinyT5(device.gpu);
      const beams = 36;
      const [one, first] = reading(model, [2, 3, 0, 3], 1);
      const [decoder, states] = reading(model, [2, 3, 0, 3], beams);
      const texts = (await allTexts(one, 0, 3)).map(({ ids, sum }) => ({
        ids,
        score: sum / ids.length ** lengthPenalty,
      }));
      expect(texts).toHaveLength(1 + 3 + 9 * VOCAB);
      const best = texts.sort((a, b) => b.score - a.score);
      const rules = { beams, lengthPenalty, earlyStopping: "never" } as const;
      const { hypotheses } = await beamSearch(decoder, [0], { ...rules, maxNewTokens: 3 });
      expect(hypotheses).toHaveLength(beams);
      for (let i = 0; i < 5; i++) {
        expect(hypotheses[i]!.ids).toEqual(best[i]!.ids);
        expect(hypotheses[i]!.score).toBeCloseTo(best[i]!.score, 4);
      }
      for (const tensor of [first, states]) tensor.dispose();
      model.dispose();
    },
  );

  it("caches that are exchanged between beams give the texts of whole passes, and nothing stays behind", async () => {
    const { gpu } = device;
    const model = await tinyT5(gpu, 23);
    const [decoder, states] = reading(model, someIds(6, 23), 4);
    const options = { beams: 4, maxNewTokens: 9, ignoreEos: true };
    const want = await beamSearch(uncached(decoder), [0, 5], options);
    const live: number[] = [];
    for (let run = 0; run < 2; run++) {
      const { hypotheses } = await beamSearch(decoder, [0, 5], options);
      expect(hypotheses.map(({ ids }) => ids)).toEqual(want.hypotheses.map(({ ids }) => ids));
      for (const [i, { score }] of hypotheses.entries())
        expect(score).toBeCloseTo(want.hypotheses[i]!.score, 4);
      live.push(gpu.memory().liveBytes);
    }
    expect(live[1]).toBe(live[0]);
    // Beams have forked: the texts do not all begin alike.
    expect(new Set(want.hypotheses.map(({ ids }) => ids.join())).size).toBe(4);
    states.dispose();
    model.dispose();
  });

  it.each([
    [
      "grouped queries with a window",
      { mixer: { type: "attention", numHeads: 4, numKvHeads: 2, window: 5 } },
    ],
    ["latents", { mixer: { type: "mla", numHeads: 4, nopeDim: 8, ropeDim: 4, vDim: 12, kvRank: 20 } }],
    ["a state whose rows cannot be exchanged", { mixer: { type: "retention", numHeads: 4 } }],
  ])(
    "decoder-only, %s: one beam is the greedy text, and more find one at least as good",
    async (_, change) => {
      const model = CausalLM.init(device.gpu, modelConfig(tinyParts(change)), { seed: 4 });
      await strong(model.parameters());
      const prompt = someIds(7);
      const common = { maxNewTokens: 6, ignoreEos: true };
      const greedy = await generate(model, prompt, { ...common, temperature: 0 });
      const one = await beamSearch(model, prompt, { ...common, beams: 1 });
      expect(one.hypotheses.map(({ ids }) => ids)).toEqual([greedy.ids]);
      const three = await beamSearch(model, prompt, { ...common, beams: 3 });
      const whole = await beamSearch(uncached(model), prompt, { ...common, beams: 3 });
      expect(three.hypotheses.map(({ ids }) => ids)).toEqual(whole.hypotheses.map(({ ids }) => ids));
      expect(three.hypotheses[0]!.score).toBeGreaterThanOrEqual(one.hypotheses[0]!.score - 1e-6);
      model.dispose();
    },
  );

  it("one beam ends where the greedy text does", async () => {
    const model = await tinyT5(device.gpu);
    const [decoder, states] = reading(model, [3, 2], 1);
    for (const start of [0, 2, 3]) {
      const greedy = await generate(decoder, [start], { maxNewTokens: 8, temperature: 0 });
      const { hypotheses } = await beamSearch(decoder, [start], { beams: 1, maxNewTokens: 8 });
      expect(hypotheses[0]!.ids).toEqual(greedy.ids);
    }
    states.dispose();
    model.dispose();
  });

  it("refuses options before any work", async () => {
    const model = CausalLM.init(device.gpu, modelConfig(tinyParts()), { seed: 4 });
    const bad: [Record<string, unknown>, RegExp][] = [
      [{ beams: 0 }, /beams is 0/],
      [{ beams: 1.5 }, /beams is 1.5/],
      [{ lengthPenalty: NaN }, /lengthPenalty is NaN/],
      [{ lengthPenalty: Infinity }, /lengthPenalty is Infinity/],
      [{ earlyStopping: "always" }, /earlyStopping is "always"/],
      [{ maxNewTokens: -1 }, /maxNewTokens is -1/],
      [{ topK: 3 }, /topK/],
      [{ cancelled: 1 }, /cancelled must be a function/],
    ];
    for (const [change, message] of bad) {
      const options = { beams: 2, maxNewTokens: 3, ...change } as BeamOptions;
      await expect(beamSearch(model, [1], options)).rejects.toThrow(message);
      await expect(beamSearch(model, [1], options)).rejects.toThrow(ConfigError);
    }
    await expect(beamSearch(model, [], { beams: 2, maxNewTokens: 3 })).rejects.toThrow(/no tokens/);
    await expect(beamSearch(model, [40], { beams: 2, maxNewTokens: 3 })).rejects.toThrow(/id 40 is outside/);
    const none = await beamSearch(model, [1], { beams: 2, maxNewTokens: 0 });
    expect(none.hypotheses).toEqual([{ ids: [], score: 0 }]);
    model.dispose();
  });
});

describe("the rules of beam search", () => {
  const start = [{ ids: [], sum: 0, parent: 0 }];
  const after = (rules: Partial<BeamRules>): Hypotheses => new Hypotheses({ beams: 2, ...rules }, [EOS], 10);

  it("follows the best texts that go on, and keeps one that ends only among the best", () => {
    const found = after({});
    expect(found.candidates).toBe(4);
    const beams = found.take(start, [
      { beam: 0, id: 5, sum: -1 },
      { beam: 0, id: EOS, sum: -2 },
      { beam: 0, id: 6, sum: -3 },
      { beam: 0, id: 7, sum: -4 },
    ]);
    expect(beams.map(({ ids, sum }) => [ids, sum])).toEqual([
      [[5], -1],
      [[6], -3],
    ]);
    const next = found.take(beams, [
      { beam: 1, id: 8, sum: -3.5 },
      { beam: 0, id: 9, sum: -3.6 },
      { beam: 0, id: EOS, sum: -3.7 },
    ]);
    expect(next.map(({ ids, parent }) => [ids, parent])).toEqual([
      [[6, 8], 1],
      [[5, 9], 0],
    ]);
    // The text that ended third is not among them.
    expect(found.finish(next)).toEqual([
      { ids: [6, 8], score: -1.75 },
      { ids: [5, 9], score: -1.8 },
    ]);
  });

  it("ends at once, when no beam is better as it is, or when none can become so", () => {
    // Two texts end with one id; the better beam has the sum -1.2 after two ids, -0.6 for each.
    const run = (earlyStopping: BeamRules["earlyStopping"], sum: number): boolean => {
      const found = after({ earlyStopping });
      const first = [
        { beam: 0, id: EOS, sum: -1 },
        { beam: 0, id: 5, sum: -1.1 },
        { beam: 0, id: 6, sum: -1.15 },
      ];
      const beams = found.take(start, first);
      expect(found.done).toBe(false);
      found.take(beams, [
        { beam: 0, id: EOS, sum: -1.2 },
        { beam: 0, id: 7, sum },
        { beam: 1, id: 7, sum: sum - 0.1 },
      ]);
      return found.done;
    };
    expect(run(true, -1.3)).toBe(true);
    // The best candidate, -1.2 / 2, is better than the worst text, -1.
    expect(run(false, -1.3)).toBe(false);
    expect(run("never", -1.3)).toBe(false);
    const late = (earlyStopping: BeamRules["earlyStopping"]): boolean => {
      const found = after({ earlyStopping });
      const beams = found.take(start, [
        { beam: 0, id: EOS, sum: -0.1 },
        { beam: 0, id: 5, sum: -0.2 },
        { beam: 0, id: 6, sum: -0.3 },
      ]);
      const more = found.take(beams, [
        { beam: 0, id: EOS, sum: -0.3 },
        { beam: 0, id: 7, sum: -1 },
        { beam: 1, id: 7, sum: -1.1 },
      ]);
      found.take(more, [
        { beam: 0, id: 8, sum: -1.2 },
        { beam: 1, id: 8, sum: -1.3 },
      ]);
      return found.done;
    };
    // -1.2 / 3 is worse than -0.3 / 2; at ten ids it could be -0.12.
    expect(late(false)).toBe(true);
    expect(late("never")).toBe(false);
  });
});
