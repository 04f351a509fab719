import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { sharedFolder, useGpu } from "@x/testing";
import { checkExpected } from "../../test-support.js";
import { loadCheckpoint, loadFolderTokenizer } from "../load.js";

const SHARED = ["llama-f32", "llama-f16", "llama-q8_0", "llama-q4_0", "llama-q4_k_m", "stories260K-q8_0"];

describe("models in GGUF files", () => {
  const device = useGpu();

  for (const name of SHARED)
    it(`${name}: logits within 5e-4, loss within 1e-4, greedy ids equal`, async ({ skip }) => {
      const folder = sharedFolder(`gguf/${name}`);
      if (folder === undefined) skip(`shared/gguf/${name} is not beside the repository`);
      await checkExpected(device.gpu, folder!);
    });

  for (const name of SHARED.filter((one) => one.includes("q")))
    it(`${name}: the same with matrices on the device as they are stored`, async ({ skip }) => {
      const folder = sharedFolder(`gguf/${name}`);
      if (folder === undefined) skip(`shared/gguf/${name} is not beside the repository`);
      await checkExpected(device.gpu, folder!, folder, { stored: true });
    });

  it("a quantised file takes its size plus 10 % on the device", async ({ skip }) => {
    const folder = sharedFolder("gguf/llama-q4_k_m");
    if (folder === undefined) skip("shared/gguf/llama-q4_k_m is not beside the repository");
    const { gpu } = device;
    const before = gpu.memory().liveBytes;
    const { model } = await loadCheckpoint(gpu, folder!, { stored: true });
    const { size } = await stat(join(folder!, "model.gguf"));
    expect(gpu.memory().liveBytes - before).toBeLessThan(1.1 * size);
    model.dispose();
    expect(gpu.memory().liveBytes).toBe(before);
  });

  it("stories260K-q8_0: the file's vocabulary gives the known ids and texts", async ({ skip }) => {
    const folder = sharedFolder("gguf/stories260K-q8_0");
    const known = sharedFolder("models/stories260K");
    if (folder === undefined || known === undefined)
      skip("shared/gguf and shared/models are not beside the repository");
    const { tokenizer_cases: cases } = JSON.parse(await readFile(join(known!, "expected.json"), "utf8")) as {
      tokenizer_cases: { text: string; ids: number[] }[];
    };
    const tokenizer = (await loadFolderTokenizer(folder!))!;
    expect(cases).toHaveLength(27);
    for (const { text, ids } of cases) {
      expect(tokenizer.encode(text), text).toEqual(ids);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(text);
    }
  });
});
