import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { checkModel, tinyParts } from "./test-support.js";

const L = { originalMaxPositionEmbeddings: 16 };
const ones = (x: number): number[] => Array<number>(4).fill(x);
const positions: Record<string, object> = {
  nope: { type: "nope" },
  learned: { type: "learned" },
  sinusoidal: { type: "sinusoidal", inputScale: 2 },
  shaw: { type: "shaw", maxDistance: 5 },
  "shaw, keys alone": { type: "shaw", maxDistance: 5, useValue: false },
  transformer_xl: { type: "transformer_xl", clampLength: 12 },
  deberta: { type: "deberta", maxDistance: 12, positionBuckets: 8 },
  t5: { type: "t5", numBuckets: 8, maxDistance: 20 },
  alibi: { type: "alibi" },
  xpos: { type: "xpos" },
  "rope, trained": { type: "rope_learned" },
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
});
