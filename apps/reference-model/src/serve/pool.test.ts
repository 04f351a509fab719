import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import type { Tokenizer } from "@x/tokenizer";
import { loadCheckpoint } from "../checkpoint/load.js";
import { generate } from "../model/generate.js";
import { someIds } from "../test-support.js";
import { CachePool } from "./pool.js";
import { Scheduler } from "./scheduler.js";
import { Sequence } from "./sequence.js";
import { byteTokenizer } from "./test-support.js";

const fixture = (name: string): string =>
  fileURLToPath(new URL(`../../../../tooling/fixtures/models/${name}`, import.meta.url));

/** Ids of greedy continuations that run side by side. */
async function together(
  scheduler: Scheduler,
  tokenizer: Tokenizer,
  prompts: readonly (readonly number[])[],
  maxTokens: number,
): Promise<{ ids: number[]; reused: number }[]> {
  const sequences = prompts.map(
    (prompt, choice) =>
      new Sequence(tokenizer, {
        ...{ prompt, maxTokens, choice, stop: [], seed: 0, eosTokenIds: [], logitBias: new Map() },
        ...{ temperature: 0, topP: 1, frequencyPenalty: 0, presencePenalty: 0, topLogprobs: undefined },
      }),
  );
  await new Promise<void>((resolve, reject) => {
    let open = sequences.length;
    scheduler.submit(sequences, {
      onPiece: (_, { finish }) => {
        if (finish !== undefined && --open === 0) resolve();
      },
      onError: reject,
    });
  });
  return sequences.map(({ text, reused, options }) => ({ ids: text.slice(options.prompt.length), reused }));
}

describe("a pool of caches", () => {
  const device = useGpu();

  // A full cache beside rings; a latent cache; a recurrent state; rotations that change with the length.
  it.each([
    ["gemma3_text", 3, 3],
    ["deepseek_v2-lite", 3, 3],
    ["rwkv", 3, 1],
    ["phi3", 3, 1],
  ])(
    "%s: texts side by side, joined and left in turn, have the ids of each alone",
    async (name, asked, rows) => {
      const { gpu } = device;
      const tokenizer = await byteTokenizer();
      const before = gpu.memory().liveBytes;
      const { model } = await loadCheckpoint(gpu, fixture(name));
      const pool = new CachePool(model, { rows: asked, length: 80 });
      expect(pool.rows).toBe(rows);
      expect(pool.oneRow === undefined).toBe(rows > 1);
      const scheduler = new Scheduler(pool, { queue: 8 });
      const ids = someIds(60, model.config.vocabSize);
      const prompts = [
        ids.slice(0, 45),
        ids.slice(3, 5),
        ids.slice(7, 20),
        ids.slice(1, 40),
        ids.slice(30, 31),
      ];
      const got = await together(scheduler, tokenizer, prompts, 12);
      for (const [i, prompt] of prompts.entries()) {
        const alone = await generate(model, prompt, { maxNewTokens: 12, temperature: 0, ignoreEos: true });
        expect(got[i]!.ids, `prompt ${i}`).toEqual(alone.ids);
      }
      // A conversation that goes on keeps its row; one that turns off runs what differs.
      const last = [...prompts[4]!, ...got[4]!.ids, 5, 6];
      const longer = await together(scheduler, tokenizer, [last], 12);
      const alone = await generate(model, last, { maxNewTokens: 12, temperature: 0, ignoreEos: true });
      expect(longer[0]).toEqual({ ids: alone.ids, reused: last.length - 3 });
      const turned = [...last.slice(0, 6), 9, 9];
      const other = await together(scheduler, tokenizer, [turned], 12);
      const wanted = await generate(model, turned, { maxNewTokens: 12, temperature: 0, ignoreEos: true });
      expect(other[0]!.ids).toEqual(wanted.ids);
      expect(other[0]!.reused).toBe(rows > 1 ? 6 : 0);
      pool.dispose();
      model.dispose();
      expect(gpu.memory().liveBytes).toBe(before);
    },
  );
});
