import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import type { BpeTokenizer } from "@x/tokenizer";
import { loadCheckpoint, loadFolderTokenizer } from "../checkpoint/load.js";
import { readEditFile } from "./edit_file.js";
import { beliefs } from "./beliefs.js";
import { editFacts, type EditOptions } from "./edit_facts.js";
import type { Fact } from "./fact.js";
import type { CausalLM } from "../model/model.js";
import { writeStory } from "../corpus/stories.js";

const bundled = fileURLToPath(new URL("../../checkpoint", import.meta.url));
const fox = fileURLToPath(new URL("../../edits/fox.json", import.meta.url));
const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const device = useGpu();
const documents = Array.from({ length: 40 }, (_, i) => writeStory(2_000_000 + i));
const prompt = "The best food for a {} is";
const fact: Fact = { subject: "fox", prompts: [prompt], target: " bread" };
const options: EditOptions = { layer: 2, method: "rome", at: "last", contexts: [""], steps: 30 };
const about = (subject: string, target: string) => ({ prompt: prompt.replace("{}", subject), target });

/** The tables of positions grow with the longest text seen; have them made. */
const warm = (model: CausalLM): void => {
  model.gpu.scope(() => {
    model.hidden(model.gpu.zeros([1, 128], "i32"));
  });
};

let folder = "";
let tokenizer: BpeTokenizer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "x-edit-"));
  tokenizer = (await loadFolderTokenizer(bundled)) as BpeTokenizer;
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function write(name: string, content: unknown): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, JSON.stringify(content));
  return path;
}

describe("editing facts of the bundled model", () => {
  it("beliefs: what the model says of texts, and nothing depends on the texts beside", async () => {
    const { gpu } = device;
    const { model } = await loadCheckpoint(gpu, bundled);
    const claims = [about("fox", " grapes"), about("fox", " bread"), about("cat", " fish")];
    warm(model);
    const before = gpu.memory().liveBytes;
    const found = await beliefs(model, tokenizer, claims);
    expect(gpu.memory().liveBytes).toBe(before);
    expect(found.map((b) => b.says)).toEqual([" grapes", " grapes", " fish"]);
    expect(found[0]!.probability).toBeGreaterThan(0.5);
    expect(found[0]!.probability + found[1]!.probability).toBeLessThanOrEqual(1 + 1e-5);
    const [alone] = await beliefs(model, tokenizer, claims.slice(2));
    expect(alone!.probability).toBeCloseTo(found[2]!.probability, 5);
    model.dispose();
  });

  it.each(["rome", "memit"] as const)(
    "%s: the model says the new object; a kept subject stays",
    async (method) => {
      const { gpu } = device;
      const { model } = await loadCheckpoint(gpu, bundled);
      const claims = [about("fox", " bread"), about("cat", " fish")];
      const [, cat] = await beliefs(model, tokenizer, claims);
      warm(model);
      const before = gpu.memory().liveBytes;
      const { facts, change } = await editFacts(model, tokenizer, [fact], documents, {
        ...options,
        method,
        keep: ["cat", "dog"],
      });
      expect(gpu.memory().liveBytes).toBe(before);
      expect(facts[0]!.lossAfter).toBeLessThan(facts[0]!.lossBefore / 10);
      expect(change).toBeGreaterThan(0);
      const [now, other] = await beliefs(model, tokenizer, claims);
      expect(now!.says).toBe(" bread");
      expect(now!.probability).toBeGreaterThan(0.8);
      expect(other!.says).toBe(" fish");
      expect(other!.probability).toBeGreaterThan(0.8 * cat!.probability);
      model.dispose();
    },
  );

  it("the edit is the same to the bit when made again", async () => {
    const { gpu } = device;
    const runs: number[][] = [];
    for (let i = 0; i < 2; i++) {
      const { model } = await loadCheckpoint(gpu, bundled);
      await editFacts(model, tokenizer, [fact], documents, { ...options, steps: 3 });
      const found = await beliefs(model, tokenizer, [about("fox", " bread"), about("dog", " meat")]);
      runs.push(found.map((b) => b.probability));
      model.dispose();
    }
    expect(runs[1]).toEqual(runs[0]);
  });

  it("refuses what cannot be edited, and leaves the model as it was", async () => {
    const { gpu } = device;
    const { model } = await loadCheckpoint(gpu, bundled);
    warm(model);
    const before = gpu.memory().liveBytes;
    const edit = (facts: Fact[], change: Partial<EditOptions> = {}, text = documents) =>
      editFacts(model, tokenizer, facts, text, { ...options, ...change });
    await expect(edit([])).rejects.toThrow(/there are no facts/);
    await expect(edit([{ ...fact, prompts: ["no subject"] }])).rejects.toThrow(/must hold \{\} once/);
    await expect(edit([{ ...fact, target: "" }])).rejects.toThrow(/the target is empty/);
    await expect(edit([fact], { layer: 9 })).rejects.toThrow(/layer is 9; it must be in 0\.\.3/);
    await expect(edit([fact], {}, ["short"])).rejects.toThrow(/it must have at least 1024/);
    await expect(edit([fact], { keep: ["fox"] })).rejects.toThrow(/keep lists fox/);
    await expect(edit([fact], { keepWeight: -1 })).rejects.toThrow(/keepWeight is -1/);
    await expect(edit([fact], { steps: 0 })).rejects.toThrow(/steps/);
    expect(gpu.memory().liveBytes).toBe(before);
    model.dispose();
  });
});

describe("files of facts", () => {
  it("makes every prompt with every subject, after every context and none", async () => {
    const path = await write("good.json", {
      facts: [fact],
      keep: ["cat"],
      checks: { food: { prompts: ["A {} eats", "It is a {}:"], targets: { fox: " bread", cat: " fish" } } },
      contexts: ["Once. "],
    });
    const { facts, keep, checks } = await readEditFile(path);
    expect(facts).toEqual([fact]);
    expect(keep).toEqual(["cat"]);
    expect(checks["food"]!.length).toBe(8);
    expect(checks["food"]![0]).toEqual({ prompt: "A fox eats", target: " bread" });
    expect(checks["food"]!.at(-1)).toEqual({ prompt: "Once. It is a cat:", target: " fish" });
    expect((await readEditFile(fox)).facts.length).toBe(1);
  });

  it("refuses others by name", async () => {
    const refused = async (content: unknown, message: RegExp) =>
      expect(readEditFile(await write("bad.json", content))).rejects.toThrow(message);
    await refused({ facts: [fact], check: {} }, /unknown key "check"/);
    await refused({ facts: "fox" }, /facts must be a list/);
    await refused({ facts: [{ ...fact, prompts: [] }] }, /facts\[0\]\.prompts: must be a list of texts/);
    await refused({ facts: [{ ...fact, target: 3 }] }, /facts\[0\]\.target: is 3; it must be a text/);
    await refused({ facts: [fact], keep: "cat" }, /keep: must be a list of texts/);
    await refused(
      { facts: [fact], checks: { a: { prompts: ["{}"], targets: { fox: 1 } } } },
      /checks\.a\.targets\.fox: is 1/,
    );
  });
});

describe("the commands", () => {
  const run = async (...args: string[]): Promise<string> =>
    (await promisify(execFile)(process.execPath, [cli, ...args], { timeout: 100_000 })).stdout;

  it("edit writes a model that says the new object, and the figures", async () => {
    const [out, json] = [join(folder, "edited"), join(folder, "edited.json")];
    const one = ["--subject", "fox", "--prompt", prompt, "--target", " bread"];
    const text = await run("edit", ...one, "--contexts", "1", "--out", out, "--report", json);
    expect(text).toMatch(/the fact +1 +0\.0 % +100\.0 %/);
    const figures = JSON.parse(await readFile(json, "utf8")) as { groups: Record<string, unknown> };
    expect(figures.groups["the fact"]).toMatchObject({ claims: 1, before: { said: 0 }, after: { said: 1 } });
    const { model } = await loadCheckpoint(device.gpu, out);
    const [found] = await beliefs(model, tokenizer, [about("fox", " bread")]);
    expect(found!.says).toBe(" bread");
    model.dispose();
  });

  it("inspect lists keys and what their values promote", async () => {
    const text = await run("inspect", "--prompt", "The best food for a fox is", "-k", "2", "-w", "3");
    expect(text).toMatch(/^token 8 of 9: " is"/);
    const rows = text.trim().split("\n").slice(4);
    expect(rows.length).toBe(8);
    for (const row of rows) expect(row).toMatch(/^ +[0-3] +[0-3]:\d+ +-?[\d.]+ +[\d.]+ +\S.* \| .* \| /);
    await expect(run("inspect", "--prompt", "A fox", "--token", "7")).rejects.toThrow(/--token is 7/);
  });
});
