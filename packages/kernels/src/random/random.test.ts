import { describe, expect, it } from "vitest";
import {
  dropout,
  randomNormal,
  randomUniform,
  repetitionPenalty,
  sample,
  vjp,
  ConfigError,
  type SampleOptions,
} from "../index.js";
import { numbers, useGpu } from "../test-support.js";

const device = useGpu();

describe("random numbers", () => {
  it("are Philox4x32-10's (the published answer for counter 0, key 0)", async () => {
    const words = [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8];
    const x = randomUniform(device.gpu, [4], { seed: 0 });
    expect([...(await x.read())]).toEqual(words.map((w) => (w >>> 8) / 2 ** 24));
  });

  it("depend on seed, stream and step alone", async () => {
    const { gpu } = device;
    const step = gpu.tensor([7], [1], "u32");
    const draw = async (options: Parameters<typeof randomUniform>[2]): Promise<string> =>
      String(await randomUniform(gpu, [5], options).read());
    const variants = [
      { seed: 1 },
      { seed: 2 },
      { seed: 2 ** 32 + 1 },
      { seed: 1, stream: 1 },
      { seed: 1, step },
    ];
    const all = await Promise.all(variants.map(draw));
    expect(new Set(all).size).toBe(variants.length);
    expect(await draw({ seed: 1, step })).toBe(all[4]);
  });

  it("have the moments of their distributions", async () => {
    const { gpu } = device;
    const n = 100_001;
    const moments = (x: ArrayLike<number>): [number, number] => {
      let [s, q] = [0, 0];
      for (let i = 0; i < x.length; i++) [s, q] = [s + x[i]!, q + x[i]! ** 2];
      return [s / x.length, q / x.length - (s / x.length) ** 2];
    };
    const [um, uv] = moments(await randomUniform(gpu, [n], { seed: 3, low: -1, high: 3 }).read());
    expect(Math.abs(um - 1)).toBeLessThan(0.02);
    expect(Math.abs(uv - 16 / 12)).toBeLessThan(0.03);
    const [nm, nv] = moments(await randomNormal(gpu, [n], { seed: 3, mean: 2, std: 0.5 }).read());
    expect(Math.abs(nm - 2)).toBeLessThan(0.01);
    expect(Math.abs(nv - 0.25)).toBeLessThan(0.01);
  });

  it("refuse seeds that are no integers", () => {
    expect(() => randomUniform(device.gpu, [1], { seed: 0.5 })).toThrow(/seed is 0.5/);
    expect(() => randomUniform(device.gpu, [1], { seed: 0, stream: -1 })).toThrow(ConfigError);
  });
});

describe("dropout", () => {
  it("keeps the mean, drops a share p, and gives the gradient the same mask", async () => {
    const { gpu } = device;
    const n = 40_001;
    const x = gpu.full([n], 1);
    const run = vjp(() => [dropout(x, 0.3, { seed: 5 })], [x]);
    const y = await run.outputs[0]!.read();
    const dropped = Array.from(y).reduce((a, v) => a + (v === 0 ? 1 : 0), 0) / n;
    expect(Math.abs(dropped - 0.3)).toBeLessThan(0.01);
    expect(new Set(y)).toEqual(new Set([0, Math.fround(1 / Math.fround(0.7))]));
    expect(await run.pullback([x])[0]!.read()).toEqual(y);
  });

  it("is the identity at p = 0 and refuses p = 1", async () => {
    const { gpu } = device;
    expect([...(await dropout(gpu.tensor([1, 2], [2]), 0, { seed: 1 }).read())]).toEqual([1, 2]);
    expect(() => dropout(gpu.zeros([1]), 1, { seed: 1 })).toThrow(ConfigError);
  });
});

describe("sample", () => {
  const frequencies = async (logits: number[], options: SampleOptions, draws = 3000): Promise<number[]> => {
    const { gpu } = device;
    const rows = Array.from({ length: draws }, () => logits).flat();
    const ids = await gpu
      .scope(() => sample(gpu.tensor(rows, [draws, logits.length]), { seed: 11, ...options }))
      .read();
    const counts = logits.map(() => 0);
    for (const id of ids) counts[id]!++;
    return counts.map((c) => c / draws);
  };
  const softmax = (x: number[]): number[] => {
    const e = x.map(Math.exp);
    const s = e.reduce((a, b) => a + b, 0);
    return e.map((v) => v / s);
  };
  // Pearson's test: of four degrees of freedom, chi-squared is above 23.5 once in 10,000 times.
  const near = (actual: number[], expected: number[], draws = 3000): void => {
    let chiSquared = 0;
    expected.forEach((p, i) => {
      if (p === 0) expect(actual[i]).toBe(0);
      else chiSquared += (draws * (actual[i]! - p) ** 2) / p;
    });
    expect(chiSquared).toBeLessThan(23.5);
  };
  const logits = [0.5, 2, -1, 1.5, 0];

  it("draws from the softmax, at any temperature", async () => {
    near(await frequencies(logits, {}), softmax(logits));
    near(await frequencies(logits, { temperature: 0.5 }), softmax(logits.map((x) => x / 0.5)));
  });

  it("cuts by top-k, top-p and min-p", async () => {
    const only = (keep: number[]): number[] =>
      softmax(logits.map((x, i) => (keep.includes(i) ? x : -Infinity)));
    near(await frequencies(logits, { topK: 2 }), only([1, 3]));
    // p = 0.49, 0.30, 0.11 in falling order: 0.75 is first held by two.
    near(await frequencies(logits, { topP: 0.75 }), only([1, 3]));
    near(await frequencies(logits, { topP: 0.85 }), only([1, 3, 0]));
    near(await frequencies(logits, { topP: 0 }), only([1]));
    near(await frequencies(logits, { minP: 0.2 }), only([1, 3, 0]));
    near(
      await frequencies(logits, { topK: 3, topP: 0.5, temperature: 2 }),
      only([1, 3]).map((_, i) => softmax(logits.map((x, j) => ([1, 3].includes(j) ? x / 2 : -Infinity)))[i]!),
    );
  });

  it("takes the largest at temperature 0, and works at any vocabulary size", async () => {
    const { gpu } = device;
    for (const width of [1, 63, 64, 65, 4097]) {
      const x = numbers(width, width);
      const best = x.indexOf(Math.max(...x));
      const t = gpu.tensor(x, [width]);
      expect(await sample(t, { temperature: 0 }).item()).toBe(best);
      expect(await sample(t, { topK: 1 }).item()).toBe(best);
      expect(await sample(t, { temperature: 1e-4 }).item()).toBe(best);
      const any = await sample(t, { seed: 3 }).item();
      expect(any >= 0 && any < width).toBe(true);
    }
  });

  it("never draws what is masked", async () => {
    near(await frequencies([-Infinity, 0, -Infinity, 0], {}), [0, 0.5, 0, 0.5]);
  });

  it("repetitionPenalty divides positive and multiplies negative logits once", async () => {
    const { gpu } = device;
    const y = repetitionPenalty(gpu.tensor([2, -2, 3, 0], [4]), gpu.tensor([0, 1, 0, -1, 9], [5], "i32"), 2);
    expect([...(await y.read())]).toEqual([1, -4, 3, 0]);
  });

  it("refuses impossible settings", () => {
    const x = device.gpu.zeros([4]);
    expect(() => sample(x, { temperature: -1 })).toThrow(/temperature is -1/);
    expect(() => sample(x, { topP: 2 })).toThrow(/topP is 2/);
    expect(() => sample(x, { topk: 2 } as never)).toThrow(/did you mean "topK"/);
  });
});
