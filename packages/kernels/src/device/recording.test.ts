import { describe, expect, it } from "vitest";
import {
  add,
  AdamW,
  clipGradNorm,
  ConfigError,
  cosineSchedule,
  crossEntropy,
  dropout,
  linear,
  randomNormal,
  randomUniform,
  sample,
  silu,
  valueAndGrad,
  type Tensor,
} from "../index.js";
import { useGpu } from "../test-support.js";

const device = useGpu();
const STEPS = 30;

/** Losses and final weights of a training run with a schedule, clipping, weight decay and dropout. */
async function train(recorded: boolean): Promise<number[]> {
  const { gpu } = device;
  const parameters = {
    w1: randomNormal(gpu, [16, 4], { seed: 1, stream: 1 }),
    w2: randomNormal(gpu, [3, 16], { seed: 1, stream: 2 }),
  };
  const x = gpu.zeros([6, 4]);
  const labels = gpu.tensor([0, 1, 2, 0, 1, 2], [6], "i32");
  const count = gpu.zeros([1], "u32");
  const schedule = cosineSchedule({ peak: 0.1, warmup: 5, steps: STEPS });
  const optimizer = new AdamW(parameters, { learningRate: 1, weightDecay: 0.1 });
  const step = (): Tensor => {
    const { value, grads } = valueAndGrad(() => {
      const hidden = dropout(silu(linear(x, parameters.w1)), 0.25, { seed: 9, step: count });
      return crossEntropy(linear(hidden, parameters.w2), labels);
    }, parameters);
    optimizer.update(grads, clipGradNorm(grads, 0.5).scale);
    return value;
  };
  const losses: number[] = [];
  let recording: ReturnType<typeof gpu.record<Tensor>> | undefined;
  for (let i = 0; i < STEPS; i++) {
    x.write(Float32Array.from({ length: 24 }, (_, j) => Math.sin(j + 7 * i)));
    count.write([i]);
    optimizer.advance(schedule(i));
    if (!recorded) {
      const loss = gpu.scope(step);
      losses.push(await loss.item());
      loss.dispose();
      continue;
    }
    if (recording) recording.replay();
    else recording = gpu.record(step);
    losses.push(await recording.outputs.item());
  }
  const weights = [...(await parameters.w1.read()), ...(await parameters.w2.read())];
  recording?.dispose();
  optimizer.dispose();
  return [...losses, ...weights];
}

describe("a recording", () => {
  it("gives the bits of eager steps over 30 steps with a schedule, clipping, dropout and new batches", async () => {
    const eager = await train(false);
    expect(new Set(eager.slice(0, STEPS)).size).toBe(STEPS);
    expect(await train(true)).toEqual(eager);
  });

  it("refuses what would freeze: an optimizer's whole step, and writes to tensors from outside", async () => {
    const { gpu } = device;
    const w = gpu.tensor([1, 2]);
    const optimizer = new AdamW({ w }, { learningRate: 0.1 });
    const grads = { w: gpu.tensor([1, 1]) };
    const wholeStep = (): void => {
      gpu.record(() => {
        optimizer.step(grads);
      });
    };
    expect(wholeStep).toThrow(ConfigError);
    expect(wholeStep).toThrow(/record update\(\), and call advance\(\) before each replay/);
    expect(optimizer.count).toBe(0);
    const write = (): void => {
      gpu.record(() => {
        w.write([3, 4]);
      });
    };
    expect(write).toThrow(/frozen/);
    expect([...(await w.read())]).toEqual([1, 2]);
    const logits = gpu.tensor([1, 2, 3]);
    for (const [name, draw] of [
      ["randomUniform", () => randomUniform(gpu, [2], { seed: 1 })],
      ["randomNormal", () => randomNormal(gpu, [2], { seed: 1 })],
      ["dropout", () => dropout(w, 0.5, { seed: 1 })],
      ["sample", () => sample(logits, { seed: 1 })],
    ] as const) {
      expect(() => gpu.record(draw)).toThrow(ConfigError);
      expect(() => gpu.record(draw)).toThrow(`${name}: was called inside a recording without step`);
    }
    // These two draw nothing.
    gpu.record(() => [dropout(w, 0, { seed: 1 }), sample(logits, { temperature: 0 })]).dispose();
    // What was made inside is the recording's own.
    const recording = gpu.record(() => {
      const constant = gpu.zeros([2]);
      constant.write([5, 6]);
      return add(constant, w);
    });
    w.write([10, 20]);
    recording.replay();
    expect([...(await recording.outputs.read())]).toEqual([15, 26]);
    recording.dispose();
  });
});
