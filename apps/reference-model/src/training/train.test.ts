import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { loadCheckpoint } from "../checkpoint/load.js";
import { saveCheckpoint } from "../checkpoint/save.js";
import { DOCUMENT_BREAK, documentStarts, trainingBatch } from "../corpus/data.js";
import { recipe, RECIPE_DEFAULTS } from "./recipe.js";
import { writeStory } from "../corpus/stories.js";
import { TRAINING_DEFAULTS } from "./options.js";
import { train, type TrainingRun } from "./train.js";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const options = {
  ...TRAINING_DEFAULTS,
  steps: 12,
  batch: 2,
  seqLen: 32,
  warmup: 2,
  evaluateEvery: 5,
  saveEvery: 2,
};
const shape = { dim: 32, layers: 2, heads: 4, kvHeads: 2, hiddenDim: 32, window: 16, maxLength: 64 };
const model = recipe({ ...RECIPE_DEFAULTS, ...shape });

describe("training", () => {
  const device = useGpu();
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "x-train-"));
    const stories = Array.from({ length: 60 }, (_, i) => writeStory(i)).join(DOCUMENT_BREAK);
    await writeFile(join(folder, "stories.txt"), stories);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const run = (out: string, change: Partial<TrainingRun> = {}): TrainingRun => ({
    data: join(folder, "stories.txt"),
    out: join(folder, out),
    model,
    vocabSize: 300,
    options,
    ...change,
  });
  const weights = (out: string): Promise<Buffer> => readFile(join(folder, out, "model.safetensors"));

  it("lowers the loss, and writes the model, its tokenizer, the curve and what was done", async () => {
    const { gpu } = device;
    const result = await train(gpu, run("whole"));
    expect(result.step).toBe(12);
    const { losses } = JSON.parse(await readFile(join(folder, "whole/training.json"), "utf8")) as {
      losses: [number, number][];
    };
    expect(losses.length).toBe(12);
    expect(losses.at(-1)![1]).toBeLessThan(losses[0]![1]);
    const files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "loss.svg"];
    for (const file of files) expect(await readdir(join(folder, "whole"))).toContain(file);
    const loaded = await loadCheckpoint(gpu, join(folder, "whole"));
    expect(loaded.config.family).toBe("mixtral");
    loaded.model.dispose();
  });

  it("stopped and gone on with, it gives the same bits", async () => {
    const { gpu } = device;
    for (const stopAt of [3, 8]) {
      let step = 0;
      await train(gpu, run("stopped"), {
        stopped: () => step >= stopAt - 1,
        onProgress: (p) => {
          step = p.step;
        },
      });
      expect(step).toBe(stopAt);
    }
    await train(gpu, run("stopped"));
    expect(Buffer.compare(await weights("stopped"), await weights("whole"))).toBe(0);
  });

  it(
    "killed at any moment and gone on with, it gives the same bits",
    async () => {
      expect(existsSync(cli), "the build is there").toBe(true);
      const config = join(folder, "run.json");
      await writeFile(
        config,
        JSON.stringify({ ...options, data: "stories.txt", out: "killed", vocabSize: 300, model }),
      );
      const start = (): ReturnType<typeof spawn> =>
        spawn(process.execPath, [cli, "train", "--config", config], { stdio: "ignore" });
      const latest = join(folder, "killed/training/latest.json");
      // The first checkpoint is being followed by others when the process dies.
      const first = start();
      while (!existsSync(latest) && first.exitCode === null) await new Promise((r) => setTimeout(r, 20));
      first.kill("SIGKILL");
      await new Promise((r) => first.once("close", r));
      const code = await new Promise((r) => start().once("close", r));
      expect(code).toBe(0);
      expect(Buffer.compare(await weights("killed"), await weights("whole"))).toBe(0);
    },
    180_000 /* three processes start, on machines that may be busy */,
  );

  it("starts from another model's weights, tokenizer and configuration", async () => {
    const { gpu } = device;
    const first: number[] = [];
    const tuned = { ...options, steps: 3, learningRate: 1e-4, documentStarts: 1 };
    await train(gpu, run("tuned", { init: join(folder, "whole"), model: {}, options: tuned }), {
      onProgress: (p) => first.push(p.loss),
    });
    const { losses } = JSON.parse(await readFile(join(folder, "whole/training.json"), "utf8")) as {
      losses: [number, number][];
    };
    expect(first[0]).toBeLessThan(losses[3]![1]);
    expect(await readFile(join(folder, "tuned/tokenizer.json"), "utf8")).toBe(
      await readFile(join(folder, "whole/tokenizer.json"), "utf8"),
    );
  });

  it("begins sequences where documents begin", () => {
    const stream = Int32Array.from([1, 2, 0, 3, 4, 5, 0, 6, 7, 0, 8, 9]);
    const at = documentStarts(stream, 0, 3);
    expect([...at]).toEqual([0, 3, 7]);
    const { ids } = trainingBatch(stream, 20, 3, 1, 0, { at, share: 1 });
    const seen = new Set(Array.from({ length: 20 }, (_, b) => ids[3 * b]));
    expect(seen).toEqual(new Set([1, 3, 6]));
  });

  it("refuses to go on with other options, and options that make no sense", async () => {
    const { gpu } = device;
    await expect(train(gpu, run("whole", { options: { ...options, learningRate: 1 } }))).rejects.toThrow(
      /--learning-rate is 1; the run in .* has 0\.003/,
    );
    await expect(train(gpu, run("x", { options: { ...options, batch: 0 } }))).rejects.toThrow(/batch is 0/);
    await expect(train(gpu, run("x", { data: join(folder, "none.txt") }))).rejects.toThrow(/none\.txt/);
    await writeFile(join(folder, "bad.txt"), Uint8Array.of(0x61, 0xff, 0xfe));
    await expect(train(gpu, run("x", { data: join(folder, "bad.txt") }))).rejects.toThrow(/not UTF-8/);
  });

  it("holds live bytes flat over steps", async () => {
    const { gpu } = device;
    const seen: number[] = [];
    const before = gpu.memory().liveBytes;
    await train(gpu, run("flat", { options: { ...options, evaluateEvery: 100, saveEvery: 100 } }), {
      onProgress: () => {
        seen.push(gpu.memory().liveBytes);
      },
    });
    expect(new Set(seen.slice(2)).size).toBe(1);
    expect(gpu.memory().liveBytes).toBe(before);
  });

  it("writes weights in f16 and bf16, whole and in shards, that load again", async () => {
    const { gpu } = device;
    const { model: trained, json } = await loadCheckpoint(gpu, join(folder, "whole"));
    const reference = await trained.parameters()["model.embed_tokens.weight"]!.read();
    for (const dtype of ["f32", "f16", "bf16"] as const)
      for (const maxShardBytes of [Infinity, 20_000]) {
        const out = join(folder, "written");
        await saveCheckpoint(out, trained, json, { dtype, maxShardBytes });
        const files = await readdir(out);
        expect(files.includes("model.safetensors.index.json")).toBe(maxShardBytes < Infinity);
        expect(files.includes("model.safetensors")).toBe(maxShardBytes === Infinity);
        const again = await loadCheckpoint(gpu, out);
        const numbers = await again.model.parameters()["model.embed_tokens.weight"]!.read();
        const bound = { f32: 0, f16: 2 ** -11, bf16: 2 ** -8 }[dtype];
        numbers.forEach((x, i) => {
          // Half of the distance of neighbours, also of f16's subnormal numbers.
          const most = bound === 0 ? 0 : Math.max(bound * Math.abs(reference[i]!), 2 ** -25);
          expect(Math.abs(x - reference[i]!)).toBeLessThanOrEqual(most);
        });
        again.model.dispose();
      }
    trained.dispose();
  });
});
