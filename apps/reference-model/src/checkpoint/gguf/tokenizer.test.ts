import { describe, expect, it } from "vitest";
import { FormatError } from "@x/kernels";
import { loadTokenizer, type Tokenizer } from "@x/tokenizer";
import type { WrittenValue } from "./architectures/index.js";
import { GgufFile } from "./gguf_file.js";
import { PRE_TOKENIZERS } from "./pre_tokenizers.js";
import { ggufOf } from "./test-support.js";
import { tokenizerFiles } from "./tokenizer.js";

type Values = Readonly<Record<string, WrittenValue>>;
const string = (value: string): WrittenValue => ({ type: "string", value });
const u32 = (value: number): WrittenValue => ({ type: "u32", value });
const bool = (value: boolean): WrittenValue => ({ type: "bool", value });
const strings = (...value: string[]): WrittenValue => ({ type: "strings", value });

async function filesOf(values: Values): Promise<Readonly<Record<string, string>>> {
  const given = Object.fromEntries(Object.entries(values).map(([key, value]) => [`tokenizer.${key}`, value]));
  return tokenizerFiles(await GgufFile.parse("model.gguf", await ggufOf(given, [])));
}
async function tokenizerOf(values: Values): Promise<Tokenizer> {
  const files = await filesOf(values);
  return loadTokenizer((name) => Promise.resolve(files[name]));
}

/** <unk>, <s>, </s>, the bytes, then pieces with their scores. */
const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
const pieces: [string, number][] = [
  ["▁", -9],
  ["a", -9],
  ["b", -9],
  ["c", -9],
  ["ab", -2],
  ["bc", -1],
  ["abc", -3],
  ["▁a", -4],
];
const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...pieces.map(([piece]) => piece), "<tool>"];
const id = (token: string): number => tokens.indexOf(token);
const SCORED: Values = {
  "ggml.model": string("llama"),
  "ggml.tokens": strings(...tokens),
  "ggml.scores": {
    type: "f32s",
    value: [0, 0, 0, ...bytes.map(() => 0), ...pieces.map(([, score]) => score), 0],
  },
  "ggml.token_type": { type: "i32s", value: [2, 3, 3, ...bytes.map(() => 6), ...pieces.map(() => 1), 4] },
  "ggml.bos_token_id": u32(1),
  "ggml.eos_token_id": u32(2),
  "ggml.unknown_token_id": u32(0),
};

describe("a vocabulary with scores", () => {
  it("the piece with the best score is merged first; what has no piece is bytes", async () => {
    const tokenizer = await tokenizerOf(SCORED);
    // bc (-1) comes before ab (-2), then abc (-3) of a and bc.
    expect(tokenizer.encode("abc")).toEqual([1, id("▁"), id("abc")]);
    expect(tokenizer.encode("ab")).toEqual([1, id("▁"), id("ab")]);
    expect(tokenizer.encode("é")).toEqual([1, id("▁"), id("<0xC3>"), id("<0xA9>")]);
    expect(tokenizer.decode(tokenizer.encode("a é b c"), { skipSpecialTokens: true })).toBe("a é b c");
  });

  it("tokens of users are found in a text, and those of control only where they may be", async () => {
    const tokenizer = await tokenizerOf(SCORED);
    expect(tokenizer.encode("a<tool>")).toContain(id("<tool>"));
  });

  it("begins and ends a text as the file says, with a space in front or not", async () => {
    const bare = { ...SCORED, "ggml.add_bos_token": bool(false), "ggml.add_space_prefix": bool(false) };
    expect((await tokenizerOf(bare)).encode("ab")).toEqual([id("ab")]);
    const ended = await tokenizerOf({ ...bare, "ggml.add_eos_token": bool(true) });
    expect(ended.encode("ab")).toEqual([id("ab"), 2]);
    expect(ended.decode([id("ab")])).toBe("ab");
  });
});

describe("a vocabulary with merges", () => {
  const words = ["l", "o", "w", "e", "r", "Ġ", "lo", "low", "er", "Ġlow", "<|end|>", "1", "2", "12"];
  const MERGED: Values = {
    "ggml.model": string("gpt2"),
    "ggml.pre": string("gpt-2"),
    "ggml.tokens": strings(...words),
    "ggml.merges": strings("l o", "lo w", "e r", "Ġ low", "1 2"),
    "ggml.token_type": { type: "i32s", value: words.map((word) => (word.startsWith("<|") ? 3 : 1)) },
    "ggml.eos_token_id": u32(words.indexOf("<|end|>")),
  };
  const of = (...list: string[]): number[] => list.map((word) => words.indexOf(word));

  it("byte-level merges, without a beginning unless the file asks for it", async () => {
    const tokenizer = await tokenizerOf(MERGED);
    expect(tokenizer.encode("low lower")).toEqual(of("low", "Ġlow", "er"));
    expect(tokenizer.decode(of("low", "Ġlow", "er"))).toBe("low lower");
    const begun = { ...MERGED, "ggml.bos_token_id": u32(10), "ggml.add_bos_token": bool(true) };
    expect((await tokenizerOf(begun)).encode("low")).toEqual([10, ...of("low")]);
  });

  it("splits as tokenizer.ggml.pre says", async () => {
    expect((await tokenizerOf(MERGED)).encode("12")).toEqual(of("12"));
    expect((await tokenizerOf({ ...MERGED, "ggml.pre": string("smollm") })).encode("12")).toEqual(
      of("1", "2"),
    );
    for (const pre of Object.keys(PRE_TOKENIZERS))
      expect((await tokenizerOf({ ...MERGED, "ggml.pre": string(pre) })).encode("low low"), pre).toEqual(
        of("low", "Ġlow"),
      );
    await expect(filesOf({ ...MERGED, "ggml.pre": string("mine") })).rejects.toThrow(
      /ggml\.pre is "mine"; known: default/,
    );
  });

  it("carries the chat template and the special tokens", async () => {
    const files = await filesOf({ ...MERGED, chat_template: string("{{ messages }}") });
    expect(JSON.parse(files["tokenizer_config.json"]!)).toEqual({
      bos_token: null,
      eos_token: "<|end|>",
      chat_template: "{{ messages }}",
    });
  });

  it("what cannot be is refused by file and key", async () => {
    const refuse = async (change: Values, reason: RegExp): Promise<void> => {
      const refused = filesOf({ ...MERGED, ...change });
      await expect(refused).rejects.toThrow(FormatError);
      await expect(refused).rejects.toThrow(reason);
    };
    await refuse(
      { "ggml.tokens": string("low") },
      /model\.gguf: tokenizer\.ggml\.tokens must be a list of texts/,
    );
    await refuse(
      { "ggml.token_type": { type: "i32s", value: [1] } },
      /ggml\.token_type lists 1 numbers; there are 14/,
    );
    await refuse({ "ggml.merges": strings("lo") }, /ggml\.merges hold "lo" at 0/);
    await refuse({ "ggml.eos_token_id": u32(99) }, /ggml\.eos_token_id is 99; there are 14 tokens/);
    const long = { ...SCORED, "ggml.tokens": strings(...tokens.slice(0, -1), "a".repeat(2000)) };
    await expect(filesOf(long)).rejects.toThrow(/a piece of 2000 characters; at most 1024/);
  });

  it("other models and files without a vocabulary have none", async () => {
    expect(await filesOf({ "ggml.model": string("no_vocab") })).toEqual({});
    expect(await filesOf({ ...MERGED, "ggml.model": string("t5") })).toEqual({});
  });
});
