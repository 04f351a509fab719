import { describe, expect, it } from "vitest";
import { ConfigError, valueAndGrad } from "@x/kernels";
import { useGpu } from "@x/testing";
import { BpeTokenizer } from "@x/tokenizer";
import { modelConfig } from "../families/index.js";
import { classedTokens, expertReport, expertTable } from "./report.js";
import { expertSvg } from "./picture.js";
import { CausalLM } from "../model/model.js";
import { writeStory } from "../corpus/stories.js";
import { checkModel, tinyParts } from "../test-support.js";

const shape = { hiddenDim: 24, numExperts: 4 };
const blocks: Record<string, Record<string, unknown>> = {
  switch: { type: "switch", ...shape, zLoss: 0.001, expertKind: "ffn", activation: "gelu" },
  gshard: { type: "gshard", ...shape, secondPolicy: "threshold" },
  "deepseek V2": { type: "deepseek", ...shape, topK: 2, numShared: 1, numGroups: 2, topkGroups: 1 },
  "deepseek V3": {
    type: "deepseek",
    ...shape,
    scoreFunction: "sigmoid",
    numShared: 1,
    routedScalingFactor: 2.5,
    updateSpeed: 0.01,
  },
  expertChoice: { type: "expertChoice", ...shape, capacityFactor: 2 },
  peer: { type: "peer", numKeys: 6, numHeads: 2, topK: 3, queryDim: 8 },
};

describe("mixtures of experts by configuration", () => {
  const device = useGpu();

  it.each(Object.keys(blocks))("%s: decoding = the whole pass, causal, trainable", async (name) => {
    const even = name === "expertChoice" ? { causal: false, decodes: false } : {};
    // An expert may be without tokens in so short a text.
    await checkModel(device.gpu, tinyParts({ ffn: blocks[name] }), {
      still: [/experts|embed\.weight/],
      ...even,
    });
  });

  it("a step moves the choosing bias, and PEER's running statistics", async () => {
    const { gpu } = device;
    for (const ffn of [blocks["deepseek V3"]!, { ...blocks["peer"], queryNorm: "batch" }]) {
      const model = CausalLM.init(gpu, modelConfig(tinyParts({ ffn })), { seed: 1 });
      const ids = gpu.tensor(
        Array.from({ length: 20 }, (_, i) => (i * i) % 40),
        [1, 20],
        "i32",
      );
      valueAndGrad(() => model.loss(ids, ids, { training: true }).total, model.parameters());
      model.afterStep();
      const buffers = Object.entries(model.buffers());
      expect(buffers.length).toBeGreaterThan(0);
      for (const [name, t] of buffers) {
        const start = name.endsWith("running_var") ? 1 : 0;
        expect([name, Array.from(await t.read()).some((v) => v !== start)]).toEqual([name, true]);
      }
      model.dispose();
    }
  });

  it("reports what experts specialise in", async () => {
    const { gpu } = device;
    const stories = [1, 2, 3].map(writeStory);
    const tokenizer = BpeTokenizer.train(stories, {
      vocabSize: 300,
      specialTokens: ["<|end|>"],
      eosToken: "<|end|>",
    });
    const [first] = stories;
    const classed = classedTokens(first!, tokenizer);
    expect(classed.map(({ id }) => id)).toEqual(tokenizer.encode(first!));
    expect(
      classed.filter(({ id }) => tokenizer.decode([id]) === ".").every((t) => t.kind === "punctuation"),
    ).toBe(true);
    const ffn = { type: "mixtral", ...shape };
    const config = modelConfig(tinyParts({ vocab_size: tokenizer.vocabSize, ffn }));
    const model = CausalLM.init(gpu, config, { seed: 1 });
    const report = await expertReport(gpu, model, tokenizer, stories);
    expect(report.layers.map((l) => l.numExperts)).toEqual([4, 4]);
    expect(report.classes.reduce((n, c) => n + c.tokens, 0)).toBe(report.tokens);
    for (const layer of report.layers) {
      expect(layer.load.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
      for (const row of layer.typeShare) expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
      expect(layer.mutualInformation).toBeGreaterThanOrEqual(0);
    }
    expect(expertTable(report)).toMatch(/expert {2}3 .*%/);
    expect(expertSvg(report)).toMatch(/^<svg [\s\S]*<\/svg>\n$/);
    const dense = CausalLM.init(gpu, modelConfig(tinyParts({ vocab_size: tokenizer.vocabSize })), {
      seed: 1,
    });
    await expect(expertReport(gpu, dense, tokenizer, stories)).rejects.toThrow(/no layer that routes tokens/);
    model.dispose();
    dense.dispose();
  });

  it("refuses what a block does not know", () => {
    const { gpu } = device;
    const make = (ffn: Record<string, unknown>) => () =>
      CausalLM.init(gpu, modelConfig(tinyParts({ ffn })), { seed: 1 });
    expect(make({ ...blocks["gshard"], secondPolicy: "some" })).toThrow(/secondPolicy is "some"/);
    expect(make({ ...blocks["peer"], topK: 7 })).toThrow(/topK is 7/);
    expect(make({ ...blocks["switch"], capacityFacter: 2 })).toThrow(/did you mean "capacityFactor"/);
    expect(make({ type: "deepseek", numExperts: 4 })).toThrow(ConfigError);
  });
});
