import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { matmul } from "@x/kernels";
import { operand, relativeError } from "@x/testing";
import type { BpeTokenizer } from "@x/tokenizer";
import { loadCheckpoint, loadFolderTokenizer } from "../checkpoint/load.js";
import { writeStory } from "../corpus/stories.js";
import { editDirections } from "./edit_direction.js";
import { editFacts, type EditOptions } from "./edit_facts.js";
import { beliefs } from "./beliefs.js";
import { surveyFacts } from "./survey.js";
import { readSurvey } from "./survey_file.js";

const bundled = fileURLToPath(new URL("../../checkpoint", import.meta.url));
const device = useGpu();
const documents = Array.from({ length: 40 }, (_, i) => writeStory(2_000_000 + i));
const options: EditOptions = { layer: 3, method: "rome", at: "last", contexts: [""], steps: 30 };

describe("surveys of facts", () => {
  it("changes each fact by itself and puts the model back", async () => {
    const { gpu } = device;
    const survey = await readSurvey(fileURLToPath(new URL("../../edits/survey.json", import.meta.url)));
    const { model } = await loadCheckpoint(gpu, bundled);
    const tokenizer = (await loadFolderTokenizer(bundled)) as BpeTokenizer;
    const weights = model.layers[3]!.ffn.memory!.values();
    const before = await weights.read();
    const facts = survey.facts.filter(({ subject, relation }) => subject === "rabbit" && relation === "home");
    const [row] = await surveyFacts(
      model,
      tokenizer,
      { ...survey, facts, contexts: [""] },
      documents,
      documents.slice(-10),
      options,
    );
    expect(row!.before.efficacy).toBe(0);
    expect(row!.efficacy).toBe(1);
    expect(row!.paraphrase).toBe(1);
    expect(row!.others).toBeGreaterThan(row!.before.others - 0.2);
    expect(row!.elsewhere).toBeGreaterThan(row!.before.elsewhere - 0.05);
    const after = model.layers[3]!.ffn.memory!.values();
    expect(Array.from(await after.read())).toEqual(Array.from(before));
    model.dispose();
  });

  it("memit: two facts at once, both said", async () => {
    const { gpu } = device;
    const { model } = await loadCheckpoint(gpu, bundled);
    const tokenizer = (await loadFolderTokenizer(bundled)) as BpeTokenizer;
    const prompt = "The best food for a {} is";
    const facts = [
      { subject: "fox", prompts: [prompt], target: " bread" },
      { subject: "goat", prompts: [prompt], target: " cheese" },
    ];
    await editFacts(model, tokenizer, facts, documents, { ...options, method: "memit" });
    const claims = facts.map(({ subject, target }) => ({ prompt: prompt.replace("{}", subject), target }));
    expect((await beliefs(model, tokenizer, claims)).map((b) => b.says)).toEqual([" bread", " cheese"]);
    model.dispose();
  });

  it("directions give 1 on their own key and, together, 0 on the others'", async () => {
    const { gpu } = device;
    const [n, F] = [3, 8];
    const a = gpu.tensor(operand([20, F], 1).data, [20, F]);
    const keys = gpu.tensor(operand([n, F], 2).data, [n, F]);
    const covariance = matmul(a, a, { transposeA: true });
    const products = async (together: boolean): Promise<number[]> =>
      Array.from(await matmul(editDirections(covariance, keys, together), keys, { transposeB: true }).read());
    const identity = Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));
    expect(relativeError(await products(true), identity)).toBeLessThan(1e-4);
    const alone = await products(false);
    for (let i = 0; i < n; i++) expect(alone[i * (n + 1)]).toBeCloseTo(1, 4);
    expect(relativeError(alone, identity)).toBeGreaterThan(1e-2);
  });
});
