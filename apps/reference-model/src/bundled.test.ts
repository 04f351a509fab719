import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { loadCheckpoint, loadFolderTokenizer } from "./checkpoint/load.js";
import { generate } from "./model/generate.js";
import { acceptsSentence, sentencesOf, writeStory } from "./corpus/stories.js";
import { perplexity } from "./training/evaluate.js";

const folder = fileURLToPath(new URL("../checkpoint", import.meta.url));
const cli = fileURLToPath(new URL("../dist/cli.js", import.meta.url));

describe("the bundled checkpoint", () => {
  const device = useGpu();

  it("stays under 4 MB, with what made it beside it", async () => {
    const files = (await readdir(folder, { recursive: true })).map((name) => join(folder, name));
    const sizes = await Promise.all(files.map((file) => stat(file)));
    expect(sizes.reduce((n, s) => n + (s.isFile() ? s.size : 0), 0)).toBeLessThan(4e6);
    for (const n of [1, 2, 3])
      for (const end of ["json", "svg"]) expect(files).toContain(join(folder, `training/${n}.${end}`));
  });

  it("is of the whole recipe, tells unseen stories from noise, and writes sentences of the grammar", async () => {
    const { gpu } = device;
    const { model, config } = await loadCheckpoint(gpu, folder);
    const tokenizer = (await loadFolderTokenizer(folder))!;
    expect(config.family).toBe("mixtral");
    for (const { mixer, ffn } of config.layers) {
      expect(mixer).toMatchObject({ type: "attention", window: 64, numHeads: 6, numKvHeads: 2 });
      expect(ffn).toMatchObject({ type: "mixtral", numExperts: 4, topK: 2 });
    }
    const unseen = Array.from({ length: 20 }, (_, i) => writeStory(3_000_000 + i));
    const evaluation = JSON.parse(await readFile(join(folder, "evaluation.json"), "utf8")) as {
      perplexity: number;
      accepted: number;
    };
    const measured = await perplexity(gpu, model, tokenizer, unseen, 128);
    expect(Math.abs(measured.perplexity / evaluation.perplexity - 1)).toBeLessThan(0.1);
    const sentences: string[] = [];
    for (let seed = 100; seed < 106; seed++) {
      const { text, reason } = await generate(
        model,
        [tokenizer.bosTokenId!],
        { maxNewTokens: 400, temperature: 0.8, topP: 0.95, seed },
        tokenizer,
      );
      expect(reason).toBe("eos");
      sentences.push(...sentencesOf(text));
    }
    expect(sentences.length).toBeGreaterThan(40);
    expect(sentences.filter(acceptsSentence).length / sentences.length).toBeGreaterThan(0.9);
    model.dispose();
  });

  const run = async (...args: string[]): Promise<{ stdout: string; stderr: string }> =>
    promisify(execFile)(process.execPath, [cli, ...args], { timeout: 50_000 });

  it("the command line writes the same text for the same seed, and one line of JSON", async () => {
    const args = ["generate", "--prompt", "Once upon a time", "--seed", "5", "-n", "12"];
    const plain = await run(...args);
    expect(plain.stdout.startsWith("Once upon a time there was a ")).toBe(true);
    expect(plain.stderr).toMatch(/12 tokens, [\d.]+ tokens\/s on .*, seed 5\n/);
    const { stdout } = await run(...args, "--json");
    expect(stdout.trim().split("\n").length).toBe(1);
    const json = JSON.parse(stdout) as { ids: number[]; text: string; tokensPerSecond: number };
    expect(json.ids.length).toBe(12);
    expect(`Once upon a time${json.text}\n`).toBe(plain.stdout);
    expect(json.tokensPerSecond).toBeGreaterThan(0);
  });

  it("info and inspect print one line of JSON", async () => {
    const info = JSON.parse((await run("info", "--json")).stdout) as {
      adapter: { name: string };
      model: Record<string, unknown>;
    };
    expect(info.adapter.name).toBe(device.gpu.info.name);
    expect(info.model).toMatchObject({ family: "mixtral", vocabSize: 768 });
    const looked = await run("inspect", "--prompt", "Once upon a time", "--layer", "1", "-k", "3", "--json");
    const { token, ids, keys } = JSON.parse(looked.stdout) as {
      token: number;
      ids: number[];
      keys: { layer: number; expert: number; contribution: number; promotes: { text: string }[] }[];
    };
    expect(token).toBe(ids.length - 1);
    expect(keys.map(({ layer }) => layer)).toEqual([1, 1, 1]);
    expect(keys.map((key) => key.contribution)).toEqual(
      keys.map((key) => key.contribution).sort((a, b) => b - a),
    );
    for (const { promotes } of keys) expect(promotes).toHaveLength(6);
  });

  it.each([
    ["convert", "--dtype", "bf16"],
    [
      "edit",
      "--subject",
      "fox",
      "--prompt",
      "A {} eats",
      "--target",
      " bread",
      "--steps",
      "1",
      "--contexts",
      "1",
    ],
  ])("%s writes a folder that generates", async (...args) => {
    const out = await mkdtemp(join(tmpdir(), "x-folder-"));
    try {
      const text = join(out, "text.txt");
      await writeFile(text, Array.from({ length: 20 }, (_, i) => writeStory(i)).join("\n\n"));
      await run(...args, "--out", join(out, "model"), ...(args[0] === "edit" ? ["--text", text] : []));
      const { stdout } = await run("generate", "-m", join(out, "model"), "-p", "Once upon a time", "-n", "4");
      expect(stdout).toMatch(/^Once upon a time /);
    } finally {
      await rm(out, { recursive: true });
    }
  });
});
