import { describe, expect, it } from "vitest";
import {
  AdamW,
  clipGradNorm,
  constantSchedule,
  cosineSchedule,
  inverseSqrtSchedule,
  linearSchedule,
  warmupStableDecaySchedule,
  ConfigError,
  ShapeError,
} from "../index.js";
import { numbers, relativeError, useGpu } from "../test-support.js";

const device = useGpu();

describe("AdamW", () => {
  const options = { learningRate: 0.1, betas: [0.9, 0.95], eps: 1e-6, weightDecay: 0.1 } as const;

  function reference(p: Float64Array, gradients: Float64Array[], decay: number, scale = 1): Float64Array {
    const m = new Float64Array(p.length);
    const v = new Float64Array(p.length);
    const out = Float64Array.from(p);
    gradients.forEach((g, t) => {
      for (let i = 0; i < p.length; i++) {
        m[i] = 0.9 * m[i]! + 0.1 * g[i]! * scale;
        v[i] = 0.95 * v[i]! + 0.05 * (g[i]! * scale) ** 2;
        const step = m[i]! / (1 - 0.9 ** (t + 1)) / (Math.sqrt(v[i]! / (1 - 0.95 ** (t + 1))) + 1e-6);
        out[i] = out[i]! * (1 - 0.1 * decay) - 0.1 * step;
      }
    });
    return out;
  }

  it("follows algorithm 2, decaying matrices only", async () => {
    const { gpu } = device;
    const w = numbers(15, 1);
    const b = numbers(5, 2);
    const parameters = { weight: gpu.tensor(w, [3, 5]), bias: gpu.tensor(b, [5]) };
    const optimizer = new AdamW(parameters, options);
    const gw = [3, 4, 5].map((s) => numbers(15, s));
    const gb = [6, 7, 8].map((s) => numbers(5, s));
    for (let t = 0; t < 3; t++)
      gpu.scope(() => {
        optimizer.step({ weight: gpu.tensor(gw[t]!, [3, 5]), bias: gpu.tensor(gb[t]!, [5]) });
      });
    expect(relativeError(await parameters.weight.read(), reference(w, gw, 0.1))).toBeLessThan(1e-5);
    expect(relativeError(await parameters.bias.read(), reference(b, gb, 0))).toBeLessThan(1e-5);
    expect(optimizer.count).toBe(3);
  });

  it("gives the same bits after a restore, and when its update is replayed", async () => {
    const { gpu } = device;
    const start = numbers(12, 1);
    const gradients = [2, 3, 4, 5].map((s) => numbers(12, s));
    const run = async (interrupted: boolean, recorded: boolean): Promise<ArrayLike<number>> => {
      let p = gpu.tensor(start, [3, 4]);
      let optimizer = new AdamW({ p }, options);
      const grad = gpu.zeros([3, 4]);
      const recording = recorded
        ? (optimizer.advance(),
          grad.write(gradients[0]!),
          gpu.record(() => {
            optimizer.update({ p: grad });
          }))
        : undefined;
      for (let t = recorded ? 1 : 0; t < 4; t++) {
        grad.write(gradients[t]!);
        if (recording) {
          optimizer.advance();
          recording.replay();
        } else optimizer.step({ p: grad });
        if (interrupted && t === 1) {
          const saved = Object.fromEntries(
            await Promise.all(
              Object.entries(optimizer.state()).map(async ([k, v]) => [k, await v.read()] as const),
            ),
          );
          p = gpu.tensor(await p.read(), [3, 4]);
          const count = optimizer.count;
          optimizer.dispose();
          optimizer = new AdamW({ p }, options);
          optimizer.restore(saved, count);
        }
      }
      const out = await p.read();
      recording?.dispose();
      optimizer.dispose();
      return out;
    };
    const plain = await run(false, false);
    expect(await run(true, false)).toEqual(plain);
    expect(await run(false, true)).toEqual(plain);
  });

  it("refuses gradients of other names and shapes, and impossible settings", () => {
    const { gpu } = device;
    const optimizer = new AdamW({ p: gpu.zeros([2]) }, { learningRate: 1 });
    expect(() => {
      optimizer.step({ q: gpu.zeros([2]) });
    }).toThrow(/gradient q/);
    expect(() => {
      optimizer.step({ p: gpu.zeros([3]) });
    }).toThrow(ShapeError);
    expect(() => new AdamW({ p: gpu.zeros([2]) }, { learningRate: -1 })).toThrow(ConfigError);
    expect(() => new AdamW({}, { learningRate: 1 })).toThrow(ConfigError);
    expect(() => new AdamW({ p: gpu.zeros([2]) }, { learningRate: 1, beta: 1 } as never)).toThrow(
      /did you mean "betas"/,
    );
  });
});

describe("clipGradNorm", () => {
  it("measures all gradients together and scales them to the limit", async () => {
    const { gpu } = device;
    const lists = [numbers(5, 1), numbers(50_001, 2), numbers(64, 3)];
    const grads = Object.fromEntries(lists.map((x, i) => [String(i), gpu.tensor(x, [x.length])]));
    const norm = Math.sqrt(lists.flatMap((x) => [...x]).reduce((s, v) => s + v * v, 0));
    const clipped = clipGradNorm(grads, 2);
    expect(Math.abs((await clipped.norm.item()) / norm - 1)).toBeLessThan(1e-5);
    expect(Math.abs((await clipped.scale.item()) - 2 / norm)).toBeLessThan(1e-6);
    expect(await clipGradNorm(grads, 1e6).scale.item()).toBe(1);
  });
});

describe("schedules", () => {
  it("warm up, and end where they should", () => {
    const cosine = cosineSchedule({ peak: 1, warmup: 10, steps: 110, floor: 0.1 });
    expect(cosine(0)).toBeCloseTo(0.1);
    expect(cosine(9)).toBe(1);
    expect(cosine(10)).toBe(1);
    expect(cosine(109)).toBeCloseTo(0.1);
    expect(cosine(1000)).toBeCloseTo(0.1);
    const linear = linearSchedule({ peak: 2, steps: 101 });
    expect([linear(0), linear(50), linear(100)]).toEqual([2, 1, 0]);
    const wsd = warmupStableDecaySchedule({ peak: 1, warmup: 2, steps: 100, decay: 10 });
    expect([wsd(0), wsd(50), wsd(89), wsd(99)]).toEqual([0.5, 1, 1, 0]);
    expect(wsd(94)).toBeCloseTo(0.5);
    const noam = inverseSqrtSchedule({ peak: 1, warmup: 4 });
    expect([noam(1), noam(3), noam(15)]).toEqual([0.5, 1, 0.5]);
    expect(constantSchedule({ peak: 3 })(7)).toBe(3);
    expect(() => cosineSchedule({ peak: 1, warmup: 5, steps: 4 })).toThrow(ConfigError);
  });
});
