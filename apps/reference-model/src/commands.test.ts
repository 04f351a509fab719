import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { describe, expect, it } from "vitest";
import { loadTokenizer, type Tokenizer } from "@x/tokenizer";
import { useGpu } from "@x/testing";
import { perplexityCommand } from "./commands/perplexity.js";
import { generateCommand } from "./commands/generate.js";
import { inspectCommand } from "./commands/inspect.js";
import { editCommand } from "./commands/edit.js";
import { expertsCommand } from "./commands/experts.js";
import { storiesCommands } from "./commands/stories.js";
import { trainCommand } from "./commands/train.js";
import { modelConfig } from "./families/index.js";
import { checkLength, continuationLength, defaultWindow } from "./model/context.js";
import { Continuation } from "./model/continuation.js";
import { classedTokens } from "./experts/report.js";
import { perplexity } from "./training/evaluate.js";
import { TRAINING_DEFAULTS } from "./training/options.js";
import { contextOf } from "./training/text.js";
import { train } from "./training/train.js";
import { generate } from "./model/generate.js";
import { CausalLM } from "./model/model.js";
import { someIds, tinyParts } from "./test-support.js";

/** A tokenizer of the Llama-2 kind: a space stands before each word, and is dropped at the start of a text. */
function spaced(): Promise<Tokenizer | undefined> {
  const tokens = ["<unk>", "<s>", "</s>", "▁", "T", "o", "m", "w", "a", "s", "▁a", "▁w", "To", "▁Tom"];
  const json = {
    version: "1.0",
    added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      byte_fallback: false,
      vocab: Object.fromEntries([...tokens, "▁To"].map((token, id) => [token, id])),
      merges: ["▁ a", "▁ w", "T o", "▁ To", "▁To m"],
    },
  };
  const files: Record<string, string> = { "tokenizer.json": JSON.stringify(json) };
  return loadTokenizer((name) => Promise.resolve(files[name]));
}

describe("the text of a continuation", () => {
  it("keeps its first space, stops at strings that begin with it or in the prompt", async () => {
    const tokenizer = (await spaced())!;
    const prompt = tokenizer.encode("Tom was");
    const added = tokenizer.encode("Tom was a Tom").slice(prompt.length);
    const run = (stop: string[]): { shown: string; text: string; stopped: boolean } => {
      const text = new Continuation(tokenizer, prompt, stop);
      let shown = "";
      for (const id of added) if (!text.stopped) shown += text.push(id);
      shown += text.end();
      return { shown, text: text.text, stopped: text.stopped };
    };
    expect(run([])).toEqual({ shown: " a Tom", text: " a Tom", stopped: false });
    expect(run([" a"])).toEqual({ shown: "", text: "", stopped: true });
    expect(run(["was a"])).toEqual({ shown: "", text: "", stopped: true });
    expect(run([" Tom"])).toEqual({ shown: " a", text: " a", stopped: true });
    // What stands in the prompt alone ends nothing.
    expect(run(["Tom was", "was"])).toEqual({ shown: " a Tom", text: " a Tom", stopped: false });
  });

  it("finds a stop string that begins far back in a long prompt, past ids that say nothing", async () => {
    const tokenizer = (await spaced())!;
    const first = tokenizer.encode("Tom was a Tom was");
    const prompt = [...first, ...new Array<number>(2000).fill(tokenizer.vocabSize + 5)];
    const [a] = tokenizer.encode("Tom was a").slice(tokenizer.encode("Tom was").length);
    for (const [stop, stopped] of [
      ["a Tom was a", true],
      ["Tom a", false],
    ] as const) {
      const text = new Continuation(tokenizer, prompt, [stop]);
      text.push(a!);
      expect(text.stopped, stop).toBe(stopped);
    }
  });

  it("the tokens of a text belong to its words, where a space is part of a token and lost at the start", async () => {
    const tokenizer = (await spaced())!;
    const text = "Tom was a Tom";
    const kinds = classedTokens(text, tokenizer, (word) => word).map(({ id, kind }) => [
      tokenizer.idToToken(id)!.replace("▁", ""),
      kind,
    ]);
    for (const [piece, kind] of kinds) expect(kind).toContain(piece);
  });
});

describe("the context", () => {
  const device = useGpu();

  it("ids that no token has say nothing, and the text goes on", async () => {
    const { gpu } = device;
    const tokenizer = (await spaced())!;
    const model = CausalLM.init(gpu, modelConfig(tinyParts()), { seed: 3 });
    expect(tokenizer.vocabSize).toBeLessThan(model.config.vocabSize);
    const out = await generate(
      model,
      [13],
      { maxNewTokens: 40, temperature: 5, seed: 1, ignoreEos: true },
      tokenizer,
    );
    expect(out.ids).toHaveLength(40);
    expect(out.ids.some((id) => id >= tokenizer.vocabSize)).toBe(true);
    model.dispose();
  });

  it("ends continuations, warns where the encoding goes on and refuses where it has no vectors", async () => {
    const { gpu } = device;
    const rope = CausalLM.init(gpu, modelConfig(tinyParts()), { seed: 3 });
    const learned = CausalLM.init(gpu, modelConfig(tinyParts({ position: { type: "learned" } })), {
      seed: 3,
    });
    for (const model of [rope, learned]) {
      expect(continuationLength(model, 60, 1e9)).toBe(4);
      expect(continuationLength(model, 60, 3)).toBe(3);
      expect(defaultWindow(model)).toBe(64);
      expect(checkLength("a", model, 64)).toBeUndefined();
    }
    expect(checkLength("a", rope, 65)).toMatch(/65 tokens are more than the 64 positions/);
    expect(continuationLength(rope, 80, 1e9)).toBe(64);
    expect(() => checkLength("a", learned, 65)).toThrow(/65 tokens are more than the 64 positions/);
    expect(continuationLength(learned, 64, 9)).toBe(0);
    await expect(generate(learned, someIds(60), { maxNewTokens: 9 })).rejects.toThrow(
      /vectors for 64 positions/,
    );
    rope.dispose();
    learned.dispose();
  });

  it("training refuses sequences beyond learned positions before the first step, by the option's name", async () => {
    const { gpu } = device;
    const model = tinyParts({ position: { type: "learned" } });
    expect(contextOf(model)).toBe(64);
    const folder = mkdtempSync(join(tmpdir(), "context-"));
    const data = join(folder, "text.txt");
    writeFileSync(data, "Tom was a fox. ".repeat(400));
    const out = join(folder, "out");
    const options = { ...TRAINING_DEFAULTS, steps: 1, seqLen: 65 };
    const run = { data, out, model, vocabSize: 300, options, init: undefined, components: undefined };
    await expect(train(gpu, run)).rejects.toThrow(
      "train: --seq-len: 65 tokens are more than the 64 positions that the model has",
    );
    rmSync(folder, { recursive: true });
  });

  it("perplexity needs a token to predict", async () => {
    const { gpu } = device;
    const tokenizer = (await spaced())!;
    const model = CausalLM.init(gpu, modelConfig(tinyParts()), { seed: 3 });
    await expect(perplexity(gpu, model, tokenizer, [], 8)).rejects.toThrow(/no tokens; it must have two/);
    await expect(perplexity(gpu, model, tokenizer, ["Tom"], 8)).rejects.toThrow(
      /one token; it must have two/,
    );
    model.dispose();
  });
});

describe("options are checked before any work", () => {
  it.each([
    [["generate", "--top-p", "2"], /--top-p.*from 0 to 1/],
    [["generate", "--temperature", "-1"], /--temperature.*at least 0/],
    [["generate", "-n", "99999999999999999999"], /--max-new-tokens.*integer/],
    [["train", "--data", "t", "--out", "o", "--batch", "-2"], /--batch.*must be: integer >= 1/],
    [["train", "--data", "t", "--out", "o", "--learning-rate", "fast"], /--learning-rate.*number >= 0/],
    [["train", "--data", "t", "--out", "o", "--validation", "0.9"], /--validation.*>= 0 <= 0.5/],
    [["train", "--data", "t", "--out", "o", "--heads", "1.5"], /--heads.*integer >= 1/],
    [["evaluate-stories", "--training", "t", "--top-p", "3"], /--top-p.*from 0 to 1/],
    [["edit", "--facts", "f", "--clamp", "0"], /--clamp.*must be a number/],
    [["edit", "--facts", "f", "--ridge", "-1"], /--ridge.*of at least 0/],
    [["edit", "--subject", ""], /--subject.*must not be empty/],
    [["edit", "--target", "\uFFFD"], /--target.*UTF-8/],
    [["edit", "--json", "x.json"], /unknown option '--json'/],
    [["generate", "--stop", ""], /--stop.*must not be empty/],
    [["generate", "-p", "caf\uFFFD"], /--prompt.*UTF-8/],
    [["generate", "--ids", "[1]", "-p", "Tom"], /--ids and --prompt are both given/],
    [["perplexity", "-d", "x", "--seq-len", "0"], /--seq-len.*at least 1/],
    [["inspect", "-p", "x", "--keys", "0"], /--keys.*at least 1/],
    [["experts", "--stories", "-3"], /--stories.*at least 1/],
  ])("%j", async (args, message) => {
    const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
    for (const add of [
      generateCommand,
      perplexityCommand,
      inspectCommand,
      expertsCommand,
      trainCommand,
      storiesCommands,
      editCommand,
    ])
      add(program);
    for (const command of program.commands)
      command.exitOverride().configureOutput({ writeErr: () => undefined });
    await expect(program.parseAsync(args, { from: "user" })).rejects.toThrow(message);
  });
});
