import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { repository, useGpu } from "@x/testing";
import { loadCheckpoint } from "../checkpoint/load.js";
import { saveCheckpoint } from "../checkpoint/save.js";
import { generate } from "../model/generate.js";

const FOLDERS = {
  bf16: ["gpt2", "falcon-new", "mixtral", "deepseek_v2", "qwen3_next", "gpt_oss", "mamba2", "rwkv"],
  f16: ["gpt2", "mixtral", "recurrent_gemma"],
} as const;
const ids = [5, 9, 2, 11, 7];

describe("matrices that stay on the device as they are stored", () => {
  const device = useGpu();

  for (const dtype of ["bf16", "f16"] as const)
    it.each(FOLDERS[dtype])(
      `%s in ${dtype}: the results of widened weights, in fewer bytes`,
      async (name) => {
        const { gpu } = device;
        const out = await mkdtemp(join(tmpdir(), "x-stored-"));
        try {
          const { model: whole, json } = await loadCheckpoint(
            gpu,
            `${repository}tooling/fixtures/models/${name}`,
          );
          await saveCheckpoint(out, whole, json, { dtype });
          whole.dispose();
          const run = async (
            stored: boolean,
          ): Promise<{ logits: number[]; text: number[]; bytes: number }> => {
            const before = gpu.memory().liveBytes;
            const { model } = await loadCheckpoint(gpu, out, { stored });
            const bytes = gpu.memory().liveBytes - before;
            const input = gpu.tensor(ids, [1, ids.length], "i32");
            const logits = gpu.scope(() => model.forward(input));
            const numbers = Array.from(await logits.read());
            const { ids: text } = await generate(model, ids, {
              maxNewTokens: 6,
              temperature: 0,
              ignoreEos: true,
            });
            for (const tensor of [input, logits]) tensor.dispose();
            model.dispose();
            expect(gpu.memory().liveBytes).toBe(before);
            return { logits: numbers, text, bytes };
          };
          const [kept, widened] = [await run(true), await run(false)];
          const worst = kept.logits.reduce(
            (most, x, i) => Math.max(most, Math.abs(x - widened.logits[i]!)),
            0,
          );
          expect(worst).toBeLessThan(1e-4);
          expect(kept.text).toEqual(widened.text);
          expect(kept.bytes / widened.bytes).toBeLessThan(0.8);
        } finally {
          await rm(out, { recursive: true });
        }
      },
    );
});
