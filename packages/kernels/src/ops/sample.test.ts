import { describe, expect, it } from "vitest";
import { repetitionPenalty, sample, ConfigError, type SampleOptions } from "../index.js";
import { useGpu } from "../test-support.js";

const device = useGpu();

describe("sample at extremes", () => {
  const draws = async (logits: number[], options: SampleOptions): Promise<Set<number>> => {
    const { gpu } = device;
    const rows = 64;
    const data = Array.from({ length: rows }, () => logits).flat();
    const ids = await sample(gpu.tensor(data, [rows, logits.length]), { seed: 3, ...options }).read();
    return new Set(ids);
  };
  const only = async (token: number, logits: number[], options: SampleOptions = {}): Promise<void> => {
    expect([...(await draws(logits, options))], JSON.stringify([logits, options])).toEqual([token]);
  };

  it("a tiny temperature takes the best, with every cut", async () => {
    for (const temperature of [1e-5, 1e-38, 1e-40, 1e-300, Number.MIN_VALUE])
      for (const cut of [{}, { topK: 2 }, { topP: 0.5 }, { topP: 0 }, { minP: 0.1 }, { minP: 1 }])
        await only(2, [0, -3, 5, 4.999, 1], { temperature, ...cut });
  });

  it("infinite and NaN logits: the best token is drawn, and never one that is masked or undefined", async () => {
    await only(1, [0, Infinity, 3]);
    await only(3, [-Infinity, -Infinity, -Infinity, -3e38]);
    await only(1, [-3e38, 3e38, 0]);
    await only(2, [NaN, -5, 30, NaN]);
    await only(2, [NaN, -5, 30, NaN], { topK: 1 });
    await only(2, [NaN, -5, 30, NaN], { topP: 0.5 });
    await only(0, [-Infinity, -Infinity]);
    await only(0, [NaN, NaN]);
    for (const id of await draws([-Infinity, 1, -Infinity, 1, -Infinity], {})) expect([1, 3]).toContain(id);
  });

  it("an endless temperature draws evenly", async () => {
    expect((await draws([0, 100, -100], { temperature: 1e300 })).size).toBe(3);
  });

  it("repetitionPenalty refuses what would make 0 NaN", () => {
    const { gpu } = device;
    const ids = gpu.tensor([0], [1], "i32");
    expect(() => repetitionPenalty(gpu.zeros([2]), ids, 1e300)).toThrow(ConfigError);
  });
});
