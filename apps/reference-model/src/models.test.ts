import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { argmax, ConfigError, FormatError } from "@x/kernels";
import { repository, sharedFolder, useGpu } from "@x/testing";
import { loadCheckpoint, loadFolderTokenizer, readConfig } from "./checkpoint/load.js";
import { generate } from "./model/generate.js";
import type { Expected } from "./test-support.js";

describe("loaded models", () => {
  const device = useGpu();

  for (const name of ["stories260K", "aidreams"])
    it(`${name}: reproduces its known text`, async ({ skip }) => {
      const folder = sharedFolder(`models/${name}`);
      if (folder === undefined) skip(`shared/models/${name} is not beside the repository`);
      const { gpu } = device;
      const expected = JSON.parse(await readFile(`${folder!}/expected.json`, "utf8")) as Expected;
      const { model } = await loadCheckpoint(gpu, folder!);
      const tokenizer = (await loadFolderTokenizer(folder!))!;
      for (const c of expected.cases.slice(0, 3)) {
        const sure = Math.min(c.reliable_tokens ?? c.greedy.length, c.greedy.length);
        const out = await generate(
          model,
          c.input_ids,
          { maxNewTokens: sure, temperature: 0, ignoreEos: true },
          tokenizer,
        );
        expect(out.ids).toEqual(c.greedy.slice(0, sure));
        if (c.prompt !== undefined) expect(tokenizer.encode(c.prompt)).toEqual(c.input_ids);
      }
      model.dispose();
    });

  it("decoding holds live bytes flat", async () => {
    const { gpu } = device;
    const { model } = await loadCheckpoint(gpu, `${repository}tooling/fixtures/models/mistral`);
    await generate(model, [1, 2, 3], { maxNewTokens: 4, temperature: 0, ignoreEos: true });
    const before = gpu.memory().liveBytes;
    for (let i = 0; i < 3; i++)
      await generate(model, [1, 2, 3], { maxNewTokens: 40, seed: i, ignoreEos: true });
    expect(gpu.memory().liveBytes).toBe(before);
    model.dispose();
  });

  it("thousands of decoded tokens leave live and pooled bytes, buffers and bind groups as they were", async () => {
    const { gpu } = device;
    const { model } = await loadCheckpoint(gpu, `${repository}tooling/fixtures/models/mistral`);
    const seen: string[] = [];
    let tokens = 0;
    const out = await generate(model, [1, 2, 3], {
      maxNewTokens: 2500,
      temperature: 0.8,
      topK: 20,
      repetitionPenalty: 1.1,
      ignoreEos: true,
      // Asked between tokens.
      cancelled: () => {
        if (++tokens % 100 === 0) {
          const { bindGroups, pipelines } = gpu.counters();
          seen.push(JSON.stringify([gpu.memory(), bindGroups, pipelines]));
        }
        return false;
      },
    });
    expect(out.ids).toHaveLength(2500);
    expect(seen.length).toBeGreaterThan(20);
    expect(new Set(seen).size).toBe(1);
    model.dispose();
  });

  it("a window's cache is a ring: text far past it stays that of a full cache", async () => {
    const { gpu } = device;
    const folder = `${repository}tooling/fixtures/models/mistral`;
    const { model } = await loadCheckpoint(gpu, folder);
    const prompt = [5, 6, 7, 8];
    const out = await generate(model, prompt, { maxNewTokens: 60, temperature: 0, ignoreEos: true });
    // The same ids from whole forward passes, which keep every key.
    const all = [...prompt, ...out.ids];
    const best = await gpu.scope(() => argmax(model.forward(gpu.tensor(all, [1, all.length], "i32")))).read();
    expect([...best.slice(prompt.length - 1, -1)]).toEqual(out.ids);
    model.dispose();
  });

  it("a text also ends at the ids of generation_config.json", async () => {
    const source = `${repository}tooling/fixtures/models/mistral`;
    const folder = await mkdtemp(join(tmpdir(), "x-generation-"));
    try {
      await cp(source, folder, { recursive: true });
      expect((await readConfig(folder)).config.eosTokenIds).toEqual([2]);
      const file = join(folder, "generation_config.json");
      await writeFile(file, JSON.stringify({ eos_token_id: [2, 7], temperature: 0.6 }));
      expect((await readConfig(folder)).config.eosTokenIds).toEqual([2, 7]);
      await writeFile(file, JSON.stringify({ eos_token_id: "</s>" }));
      await expect(readConfig(folder)).rejects.toThrow(/generation_config\.json: eos_token_id is "<\/s>"/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("refuses what is missing, left over or of another shape, and leaves nothing behind", async () => {
    const { gpu } = device;
    const folder = `${repository}tooling/fixtures/models/llama`;
    const before = gpu.memory().liveBytes;
    await expect(
      loadCheckpoint(gpu, folder, { change: (json) => ({ ...json, num_hidden_layers: 4 }) }),
    ).rejects.toThrow(/input_layernorm|q_proj/);
    await expect(
      loadCheckpoint(gpu, folder, { change: (json) => ({ ...json, num_hidden_layers: 2 }) }),
    ).rejects.toThrow(/no place for: model\.layers\.2/);
    await expect(
      loadCheckpoint(gpu, folder, { change: (json) => ({ ...json, intermediate_size: 97 }) }),
    ).rejects.toThrow(/gate_proj\.weight has shape \[96, 48\]/);
    await expect(
      loadCheckpoint(gpu, folder, { change: (json) => ({ ...json, model_type: "gpt5" }) }),
    ).rejects.toThrow(ConfigError);
    await expect(
      loadCheckpoint(gpu, folder, { change: (json) => ({ ...json, num_key_value_heads: 4 }) }),
    ).rejects.toThrow(/must divide/);
    await expect(loadCheckpoint(gpu, `${folder}-none`)).rejects.toThrow(FormatError);
    expect(gpu.memory().liveBytes).toBe(before);
  });
});
