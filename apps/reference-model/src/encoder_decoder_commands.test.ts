import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Safetensors } from "@x/kernels/safetensors";
import { repository } from "@x/testing";
import { convertCommand } from "./commands/convert/convert.js";
import { generateCommand } from "./commands/generate.js";
import { infoCommand } from "./commands/info.js";
import { logitsCommand } from "./commands/logits.js";
import { perplexityCommand } from "./commands/perplexity.js";
import type { Expected } from "./test-support.js";

const MODEL = `${repository}tooling/fixtures/models/t5`;

/** What a command prints. */
async function printed(...args: string[]): Promise<string> {
  const program = new Command().exitOverride();
  program.configureOutput({ writeErr: () => undefined });
  for (const add of [generateCommand, logitsCommand, infoCommand, perplexityCommand, convertCommand])
    add(program);
  for (const command of program.commands) command.copyInheritedSettings(program);
  let out = "";
  const write = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    out += String(text);
    return true;
  });
  const quiet = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  try {
    await program.parseAsync(args, { from: "user" });
    return out;
  } finally {
    write.mockRestore();
    quiet.mockRestore();
  }
}

/** A tokenizer of T5's kind: pieces with scores, a mark for spaces, and the end-of-text token after each text. */
const TOKENIZER = {
  version: "1.0",
  added_tokens: ["<pad>", "</s>", "<unk>"].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: null,
  pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  post_processor: {
    type: "TemplateProcessing",
    single: [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }],
    pair: [],
    special_tokens: { "</s>": { id: "</s>", ids: [1], tokens: ["</s>"] } },
  },
  decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  model: {
    type: "Unigram",
    unk_id: 2,
    vocab: [
      ...["<pad>", "</s>", "<unk>"].map((piece) => [piece, 0]),
      ...Array.from({ length: 237 }, (_, i) => [`${i % 3 === 0 ? "▁" : ""}w${i}`, -2 - i / 100]),
    ],
  },
};

describe("commands with an encoder-decoder", () => {
  let folder: string;
  let cases: Expected["cases"];
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "x-t5-"));
    cases = (JSON.parse(await readFile(join(MODEL, "expected.json"), "utf8")) as Expected).cases;
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("logits writes those of the decoder's positions; padding that a mask hides changes nothing", async () => {
    const [ids, out] = [join(folder, "ids.json"), join(folder, "logits.safetensors")];
    const { input_ids, decoder_input_ids } = cases[0]!;
    const padded = {
      input_ids: [...input_ids, 0, 0],
      attention_mask: [...input_ids.map(() => 1), 0, 0],
      decoder_input_ids,
    };
    await writeFile(ids, JSON.stringify([{ input_ids, decoder_input_ids }, padded, { input_ids }]));
    const line = await printed("logits", "-m", MODEL, "--ids", ids, "--out", out, "--json");
    expect(JSON.parse(line)).toEqual({ out, lists: 3, positions: [7, 7, 1], vocabSize: 240 });
    const written = await Safetensors.parse(out, await readFile(out));
    const expected = await Safetensors.parse("expected", await readFile(join(MODEL, "expected.safetensors")));
    const want = await expected.numbers("c0.logits");
    for (const [name, count] of [
      ["logits.0", want.length],
      ["logits.1", want.length],
      // The start id alone.
      ["logits.2", 240],
    ] as const) {
      const got = Array.from(await written.numbers(name));
      expect(got).toHaveLength(count);
      for (const [i, x] of got.entries()) expect(Math.abs(x - want[i]!), name).toBeLessThan(5e-4);
    }
  });

  it("generate reads --ids and writes from the start id on, or from --decoder-ids", async () => {
    const { input_ids, greedy } = cases[1]!;
    const run = async (...more: string[]): Promise<unknown> => {
      const line = await printed(
        ...["generate", "-m", MODEL, "--ids", JSON.stringify(input_ids)],
        ...["--greedy", "-n", "6", "--ignore-eos", "--json", ...more],
      );
      return (JSON.parse(line) as { ids: unknown }).ids;
    };
    expect(await run()).toEqual(greedy.slice(0, 6));
    expect(await run("--decoder-ids", JSON.stringify([0, ...greedy.slice(0, 3)]))).toEqual(
      greedy.slice(3, 9),
    );
  });

  it("generate gives the prompt to the encoder with the tokenizer's end token, and prints the decoder's text alone", async () => {
    const own = join(folder, "with-tokenizer");
    await cp(MODEL, own, { recursive: true });
    await writeFile(join(own, "tokenizer.json"), JSON.stringify(TOKENIZER));
    const run = async (model: string, ...more: string[]): Promise<{ ids: number[]; text: string }> =>
      JSON.parse(
        await printed("generate", "-m", model, "--greedy", "-n", "4", "--ignore-eos", "--json", ...more),
      ) as { ids: number[]; text: string };
    // Pieces are at 3 + i; a space stands before w0 and w3.
    const { ids, text } = await run(own, "--prompt", "w0w1 w3");
    expect(ids).toEqual((await run(MODEL, "--ids", "[3,4,6,1]")).ids);
    const words = ids.map((id) => (id < 3 ? "" : `${(id - 3) % 3 === 0 ? " " : ""}w${id - 3}`)).join("");
    expect(text.trim()).toBe(words.trim());
    const plain = await printed(
      "generate",
      "-m",
      own,
      "--greedy",
      "-n",
      "4",
      "--ignore-eos",
      "-p",
      "w0w1 w3",
    );
    expect(plain).toBe(`${text}\n`);
    const stopped = await printed(
      ...["generate", "-m", own, "--greedy", "-n", "4", "--ignore-eos", "-p", "w0w1 w3"],
      ...["--stop", `w${ids[1]! - 3}`],
    );
    expect(text.startsWith(stopped.trimEnd())).toBe(true);
    expect(stopped.length).toBeLessThan(plain.length);
    const beams = ["--beams", "1", "-n", "4", "--ignore-eos"];
    expect(await printed("generate", "-m", own, ...beams, "-p", "w0w1 w3")).toBe(plain);
  });

  it("generate --beams prints the best text with its score, which one beam shares with the greedy one", async () => {
    const { input_ids, greedy } = cases[1]!;
    const run = async (...more: string[]): Promise<{ ids: number[]; score: number; seed?: number }> => {
      const line = await printed(
        ...["generate", "-m", MODEL, "--ids", JSON.stringify(input_ids)],
        ...["-n", "6", "--ignore-eos", "--json", ...more],
      );
      return JSON.parse(line) as { ids: number[]; score: number };
    };
    const one = await run("--beams", "1");
    expect(one.ids).toEqual(greedy.slice(0, 6));
    const four = await run("--beams", "4", "--early-stopping", "never", "--length-penalty", "0.5");
    expect(four.ids).toHaveLength(6);
    expect(four.seed).toBeUndefined();
    // The same sum, divided by 6 or by its root.
    expect(four.score).toBeGreaterThanOrEqual((one.score * 6) / Math.sqrt(6) - 1e-4);
  });

  it("info says what both stacks hold", async () => {
    const { model } = JSON.parse(await printed("info", "-m", MODEL, "--json")) as { model: unknown };
    expect(model).toMatchObject({ family: "t5", encoderLayers: 2, decoderLayers: 2, parameters: 104_512 });
    expect(model).toMatchObject({ cacheBytesPerToken: 768, contextBytesPerToken: 768 });
  });

  it.each([
    [["generate", "--ids", "[]"], /the encoder's text has no tokens/],
    [["generate", "--ids", "[240]"], /id 240 is outside the vocabulary of 240/],
    [["generate", "--ids", "[1]", "--decoder-ids", "[]"], /the prompt has no tokens/],
    [["generate", "--ids", "[1]", "--decoder-ids", "0"], /--decoder-ids: is "0"; it must be a JSON list/],
    [["generate", "--ids", "[1]", "--rope-scaling", "yarn:2"], /--rope-scaling.*t5, which has no rotations/],
    [["generate", "-p", "Tom"], /has no tokenizer; give --ids/],
    [["generate", "--ids", "[1]", "--beams", "2", "--top-k", "3"], /--beams.*cannot be used with.*--top-k/],
    [["generate", "--ids", "[1]", "--length-penalty", "2"], /--length-penalty is given without --beams/],
    [["generate", "--ids", "[1]", "--early-stopping", "never"], /--early-stopping is given without --beams/],
    [["generate", "--ids", "[1]", "--stop", "x"], /--stop: is given; .* has no tokenizer/],
    [["perplexity", "-d", MODEL], /model_type is "t5", an encoder-decoder/],
    [["convert", "-o", "gguf", "--gguf", "f16"], /model_type is "t5"; GGUF files are written of/],
  ])("%j is refused", async (args, message) => {
    const text = join(folder, "text.txt");
    await writeFile(text, "Tom was a fox.");
    const own = args.map((one) => (one === MODEL ? text : one === "gguf" ? join(folder, one) : one));
    await expect(printed(...own, "-m", MODEL)).rejects.toThrow(message);
  });

  it.each([
    [{ input_ids: [] }, /entry 0: input_ids must list ids in 0\.\.239/],
    [{ decoder_input_ids: [0] }, /entry 0: input_ids must list ids/],
    [{ input_ids: [1], decoder_input_ids: [240] }, /entry 0: decoder_input_ids must list ids in 0\.\.239/],
    [{ input_ids: [1, 2], attention_mask: [1] }, /attention_mask has 1 numbers, input_ids has 2 ids/],
    [{ input_ids: [1], attention_mask: [2] }, /attention_mask must list numbers in 0\.\.1/],
  ])("logits refuses %j", async (entry, message) => {
    const ids = join(folder, "bad.json");
    await writeFile(ids, JSON.stringify([entry]));
    const out = join(folder, "bad.safetensors");
    await expect(printed("logits", "-m", MODEL, "--ids", ids, "--out", out)).rejects.toThrow(message);
  });
});
