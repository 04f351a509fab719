import { describe, expect, it, vi } from "vitest";
import { useGpu } from "@x/testing";
import { modelConfig } from "../families/index.js";
import { CausalLM } from "../model/model.js";
import { someIds, tinyParts } from "../test-support.js";
import { TRAINING_DEFAULTS } from "./options.js";
import { Pace } from "./pace.js";
import { TrainingStep } from "./step.js";

const STEPS = 30;
const options = {
  ...TRAINING_DEFAULTS,
  steps: STEPS,
  batch: 2,
  seqLen: 8,
  learningRate: 2e-2,
  warmup: 10,
  // The norm of the gradients is above it at some steps and below it at others.
  clip: 1.5,
};

describe("a recorded step of training", () => {
  const device = useGpu();

  it("replayed 30 times with a schedule and clipping, it gives the losses and weights of eager steps", async () => {
    const { gpu } = device;
    const config = modelConfig(tinyParts());
    const run = async (
      eager: boolean,
    ): Promise<{ losses: number[]; weights: number[][]; rates: number[] }> => {
      const model = CausalLM.init(gpu, config, { seed: 3 });
      const training = new TrainingStep(gpu, model, options);
      const [losses, rates]: [number[], number[]] = [[], []];
      for (let step = 0; step < STEPS; step++) {
        const stream = someIds(200, config.vocabSize);
        const at = (shift: number): Int32Array =>
          Int32Array.from({ length: 16 }, (_, i) => stream[step + shift + (i >> 3) * 20 + (i & 7)]!);
        const batch = { ids: at(0), targets: at(1) };
        rates.push(training.schedule(step));
        if (eager) {
          training.prepare(batch, step);
          const loss = gpu.scope(() => training.update());
          losses.push(await loss.item());
          loss.dispose();
        } else losses.push(await training.run(batch, step));
      }
      const weights = await Promise.all(
        Object.values(model.parameters()).map(async (tensor) => Array.from(await tensor.read())),
      );
      training.dispose();
      model.dispose();
      return { losses, weights, rates };
    };
    const replayed = await run(false);
    const eager = await run(true);
    expect(new Set(eager.rates).size).toBeGreaterThan(20);
    expect(replayed.losses).toEqual(eager.losses);
    expect(replayed.weights).toEqual(eager.weights);
    expect(eager.losses.at(-1)).toBeLessThan(eager.losses[0]!);
  });
});

describe("the pace of a run", () => {
  it("does not count the first step, which compiles", async () => {
    let now = 0;
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now);
    const pace = new Pace();
    const step = (milliseconds: number): Promise<void> =>
      pace.measure(() => {
        now += milliseconds;
        return Promise.resolve();
      });
    await step(60_000);
    expect(pace.rate).toBeUndefined();
    await step(100);
    await step(300);
    expect(pace.rate).toBeCloseTo(5, 12);
    clock.mockRestore();
  });
});
