import { describe, expect, it } from "vitest";
import { subParameters } from "@x/kernels";
import { QKNorm, type QKNormConfig } from "@x/norm";
import { operand, relativeError, useGpu } from "@x/testing";
import { COMPONENTS } from "./components/index.js";
import { queryKeyNorms } from "./components/mixers/qk_norm.js";
import { modelConfig } from "./families/index.js";
import { CausalLM } from "./model/model.js";
import { checkModel, tinyParts } from "./test-support.js";

const L = { originalMaxPositionEmbeddings: 16 };
const ones = (x: number): number[] => Array<number>(4).fill(x);
const positions: Record<string, object> = {
  nope: { type: "nope" },
  learned: { type: "learned" },
  sinusoidal: { type: "sinusoidal", inputScale: 2 },
  shaw: { type: "shaw", maxDistance: 5 },
  "shaw, keys alone": { type: "shaw", maxDistance: 5, useValue: false },
  transformerXl: { type: "transformerXl", clampLength: 12 },
  deberta: { type: "deberta", maxDistance: 12, positionBuckets: 8 },
  t5: { type: "t5", numBuckets: 8, maxDistance: 20 },
  alibi: { type: "alibi", maxBias: 4 },
  xpos: { type: "xpos" },
  "rope, trained": { type: "ropeLearned" },
  "rope, partial and interleaved": { type: "rope", rotaryDim: 4, layout: "interleaved" },
  ...Object.fromEntries(
    [
      { type: "linear", factor: 2 },
      { type: "superhot" },
      { type: "ntk", factor: 2 },
      { type: "ntkByParts", factor: 4, ...L },
      { type: "yarn", factor: 4, ...L },
      { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, ...L },
      { type: "custom", pairFactors: ones(1.5), attentionFactor: 1.1 },
    ].map((scaling) => [`rope, ${scaling.type}`, { type: "rope", scaling }]),
  ),
};

/** Frequencies that follow the sequence's length: decoding sets it to that of its caches. */
const byLength: Record<string, object> = {
  dynamicNtk: { type: "dynamicNtk", factor: 2, originalMaxPositionEmbeddings: 64 },
  longrope: {
    type: "longrope",
    shortFactor: ones(1),
    longFactor: ones(2),
    factor: 4,
    originalMaxPositionEmbeddings: 64,
  },
};

const norms: Record<string, object> = {
  "RMSNorm, eps outside": { type: "rms", epsPlacement: "outside", eps: 1e-8 },
  pRMSNorm: { type: "prms", p: 0.25 },
  ScaleNorm: { type: "scale" },
  BatchNorm: { type: "batch" },
};

const qkNorms: Record<string, Record<string, unknown>> = {
  "rms by head": { qkNorm: { type: "rms" } },
  "layer by head": { qkNorm: { type: "layer" } },
  "gemma by head": { qkNorm: { type: "gemma", scope: "head", eps: 1e-5 } },
  "rms over all heads": { qkNorm: { type: "rms", scope: "all" } },
  "layer over all heads, without a bias": { qkNorm: { type: "layer", scope: "all", bias: false } },
  "gemma over all heads": { qkNorm: { type: "gemma", scope: "all" } },
  "rms with weights for each head": { qkNorm: { type: "rms", scope: "each" } },
  "l2 with one g": { qkNorm: { type: "l2" } },
  "l2 with a g for each head, in windows": { qkNorm: { type: "l2", perHead: true, length: 16 }, window: 6 },
};

describe("models of every encoding and norm", () => {
  const device = useGpu();
  const check = async (change: Record<string, unknown>): Promise<void> => {
    const before = device.gpu.memory().liveBytes;
    await checkModel(device.gpu, tinyParts(change));
    expect(device.gpu.memory().liveBytes).toBe(before);
  };

  it.each(Object.keys(positions))(
    "%s: decoding = the whole pass, causal, trainable",
    { timeout: 240_000 },
    (name) => check({ position: positions[name] }),
  );
  it.each(Object.keys(byLength))("rope, %s: decoding = the whole pass", { timeout: 240_000 }, (name) =>
    check({ position: { type: "rope", scaling: byLength[name] } }),
  );
  it.each(Object.keys(norms))(
    "%s: decoding = the whole pass, causal, trainable",
    { timeout: 240_000 },
    (name) => check({ norm: norms[name] }),
  );
  it.each(Object.keys(qkNorms))(
    "queries and keys, %s: decoding = the whole pass, causal, trainable",
    { timeout: 240_000 },
    (name) => check({ mixer: { type: "attention", numHeads: 4, numKvHeads: 2, ...qkNorms[name] } }),
  );

  it("queries and keys get the norms of @x/norm, under the checkpoints' names", async () => {
    const { gpu } = device;
    const heads = { numHeads: 4, numKvHeads: 2, headDim: 8 };
    for (const kind of ["rms", "layer", "gemma", "l2"] as const)
      for (const scope of kind === "l2" ? (["head"] as const) : (["head", "each", "all"] as const)) {
        const sides = { q_norm: heads.numHeads, k_norm: heads.numKvHeads };
        const configs = Object.entries(sides).map(([name, numHeads]) => {
          const g = kind === "l2" && name === "q_norm" ? "one" : "none";
          return [name, { kind, scope, numHeads, headDim: heads.headDim, g } satisfies QKNormConfig] as const;
        });
        const given = Object.fromEntries(
          configs.flatMap(([name, config]) =>
            Object.entries(QKNorm.plan(config)).map(([key, { shape }]) => [
              `${name}.${key}`,
              gpu.tensor(operand(shape, key.length).data, shape),
            ]),
          ),
        );
        const weights = {
          gpu,
          model: { ...modelConfig(tinyParts()) },
          layer: 0,
          name: "self_attn",
          given,
          seed: 1,
          made: [],
          gain: 1,
          encoding: { parameters: () => ({}) },
          components: COMPONENTS,
        };
        const norms = queryKeyNorms({ type: kind, scope }, weights, heads);
        for (const [name, config] of configs) {
          const own = norms[name as keyof typeof norms]!;
          const parameters = subParameters(given, name);
          expect(own.parameters()).toEqual(parameters);
          expect(own.scale).toBe(kind === "l2" ? 1 : undefined);
          const { data, shape } = operand([2, 3, config.numHeads, 8], config.numHeads);
          const x = gpu.tensor(data, shape);
          const got = await own.forward(x, { training: false }).read();
          const expected = await new QKNorm(config, parameters).forward(x).read();
          expect(relativeError(got, expected), `${name}, ${kind}, ${scope}`).toBeLessThan(1e-6);
        }
      }
  });

  it("refuses norms of queries and keys that do not fit", () => {
    const model = (mixer: object, rest: object = {}): CausalLM => {
      const json = tinyParts({ mixer: { type: "attention", numHeads: 4, ...mixer }, ...rest });
      return CausalLM.init(device.gpu, modelConfig(json), { seed: 1 });
    };
    expect(() => model({ qkNorm: { type: "rms", scope: "token" } })).toThrow(/scope is "token"/);
    expect(() => model({ qkNorm: { type: "l2", scope: "all" } })).toThrow(/takes each head by itself/);
    expect(() => model({ qkNorm: { type: "l2" }, scale: 0.5 })).toThrow(/a factor of its own/);
    expect(() => model({ qkNorm: { type: "batch" } })).toThrow(/sees its own token alone/);
    expect(() => model({ qkNorm: { type: "rms", perHead: true } })).toThrow(/perHead/);
    expect(() => model({ qkNorm: { type: "length" } })).toThrow(/known: rms/);
    const scaled = model({ qkNorm: { type: "l2" } }, { position: { type: "deberta", maxDistance: 8 } });
    expect(() => scaled.forward(device.gpu.tensor([1, 2], [1, 2], "i32"))).toThrow(
      /scales the scores itself/,
    );
    scaled.dispose();
  });
});
