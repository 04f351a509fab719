import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { BpeTokenizer, fromGpt2Files, fromTokenizerJson, loadTokenizer, type Tokenizer } from "./index.js";

const shared = fileURLToPath(new URL("../../../../shared/tokenizers/", import.meta.url));
const present = existsSync(shared);
const reason = "shared/tokenizers is not beside the repository";

interface Case {
  readonly kind: "text" | "special" | "plain" | "template" | "decode";
  readonly text: string;
  readonly ids: number[];
  readonly bytes_hex?: string;
}

const text = (name: string): string => readFileSync(shared + name, "utf8");
const json = (name: string): unknown => JSON.parse(text(name)) as unknown;
const cases = (folder: string): Case[] =>
  text(`${folder}/cases.jsonl`)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Case);

function check(tokenizer: BpeTokenizer, list: Case[]): void {
  for (const c of list) {
    const where = JSON.stringify(c).slice(0, 200);
    switch (c.kind) {
      case "text":
        expect(tokenizer.encode(c.text, { addSpecialTokens: false }), where).toEqual(c.ids);
        expect(tokenizer.decode(c.ids), where).toBe(
          tokenizer.options.normalize ? tokenizer.options.normalize(c.text) : c.text,
        );
        break;
      case "special":
        expect(tokenizer.encode(c.text, { addSpecialTokens: false }), where).toEqual(c.ids);
        break;
      case "plain":
        expect(tokenizer.encode(c.text, { addSpecialTokens: false, allowedSpecial: "none" }), where).toEqual(
          c.ids,
        );
        break;
      case "template":
        expect(tokenizer.encode(c.text), where).toEqual(c.ids);
        break;
      case "decode":
        expect(Buffer.from(tokenizer.decodeBytes(c.ids)).toString("hex"), where).toBe(c.bytes_hex);
        expect(tokenizer.decode(c.ids), where).toBe(c.text);
    }
  }
}

describe("published tokenizers", () => {
  for (const folder of ["gpt2", "llama3-style", "qwen2-style", "bpe-train"])
    it(`${folder}: every case of its tokenizer.json`, ({ skip }) => {
      if (!present) skip(reason);
      check(fromTokenizerJson(json(`${folder}/tokenizer.json`)), cases(folder));
    });

  it("gpt2: every case of vocab.json and merges.txt", ({ skip }) => {
    if (!present) skip(reason);
    check(fromGpt2Files({ vocab: json("gpt2/vocab.json"), merges: text("gpt2/merges.txt") }), cases("gpt2"));
  });

  it("training gives the published merges and ids", ({ skip }) => {
    if (!present) skip(reason);
    const tokenizer = BpeTokenizer.train([text("bpe-train/text.txt")], { vocabSize: 756 });
    const merges = text("bpe-train/merges.txt")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#version"));
    expect(tokenizer.options.merges.map((m) => m.join(" "))).toEqual(merges);
    expect({ ...tokenizer.options.vocab }).toEqual(json("bpe-train/vocab.json"));
  });

  it("Llama-2 style files", async ({ skip }) => {
    const models = fileURLToPath(new URL("../../../../shared/models/stories260K/", import.meta.url));
    if (!existsSync(models)) skip("shared/models is not beside the repository");
    const tokenizer: Tokenizer = await loadTokenizer((name) =>
      Promise.resolve(existsSync(models + name) ? readFileSync(models + name, "utf8") : undefined),
    );
    const expected = JSON.parse(readFileSync(`${models}expected.json`, "utf8")) as {
      tokenizer_cases: { text: string; ids?: number[]; input_ids?: number[] }[];
    };
    for (const c of expected.tokenizer_cases)
      expect(tokenizer.encode(c.text), c.text).toEqual(c.ids ?? c.input_ids);
  });
});
