import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BYTE_ALPHABET } from "../pattern/byte_symbols.js";
import {
  fromGpt2Files,
  fromTokenizerJson,
  loadTokenizer,
  TokenizerError,
  type BpeTokenizer,
} from "../index.js";

const vocab: Record<string, number> = Object.fromEntries(
  [...BYTE_ALPHABET, "ab", "abc", "Ġa"].map((t, i) => [t, i]),
);
const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };

/** A small file that is right. */
const file = {
  version: "1.0",
  added_tokens: [
    {
      id: 259,
      content: "<s>",
      special: true,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    },
  ],
  normalizer: null as unknown,
  pre_tokenizer: byteLevel as unknown,
  post_processor: null as unknown,
  decoder: { type: "ByteLevel" },
  model: { type: "BPE", vocab, merges: ["a b", "ab c", "Ġ a"] as unknown[] },
};
const tokens = (tokenizer: BpeTokenizer, text: string): (string | undefined)[] =>
  tokenizer.encode(text, { addSpecialTokens: false }).map((id) => tokenizer.idToToken(id));
const withModel = (model: object): object => ({ ...file, model: { ...file.model, ...model } });

/** What reading gives: the text's ids, or a TokenizerError. Anything else is a failure. */
async function outcome(root: unknown, text = "abc ab <s>"): Promise<string> {
  try {
    const parts = { "tokenizer.json": JSON.stringify(root) };
    const tokenizer = await loadTokenizer((name) => Promise.resolve(parts[name as "tokenizer.json"]));
    const ids = tokenizer.encode(text);
    return `read: ${tokenizer.decode(ids.filter((id) => tokenizer.idToToken(id) !== undefined))}`;
  } catch (error) {
    if (!TokenizerError.isInstance(error)) throw error;
    return error.message;
  }
}

describe("tokenizer.json", () => {
  it("merges as strings or pairs, in their order", () => {
    expect(tokens(fromTokenizerJson(file), "abc abd")).toEqual(["abc", "Ġ", "ab", "d"]);
    const pairs = withModel({
      merges: [
        ["a", "b"],
        ["ab", "c"],
        ["Ġ", "a"],
      ],
    });
    expect(tokens(fromTokenizerJson(pairs), "abc abd")).toEqual(["abc", "Ġ", "ab", "d"]);
  });

  it("a word that is a token is taken whole with ignore_merges", () => {
    const merges = ["a b"];
    expect(tokens(fromTokenizerJson(withModel({ merges })), "abc")).toEqual(["ab", "c"]);
    expect(tokens(fromTokenizerJson(withModel({ merges, ignore_merges: true })), "abc")).toEqual(["abc"]);
  });

  it("normalisers, split patterns, prefix space and template", () => {
    const split = {
      type: "Split",
      pattern: { Regex: "\\p{N}{1,3}+|\\p{L}++" },
      behavior: "Isolated",
      invert: false,
    };
    const tokenizer = fromTokenizerJson({
      ...file,
      normalizer: { type: "Sequence", normalizers: [{ type: "NFC" }, { type: "Lowercase" }] },
      pre_tokenizer: { type: "Sequence", pretokenizers: [split, { ...byteLevel, use_regex: false }] },
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      },
    });
    expect(tokenizer.encode("ABC")).toEqual([259, 257]);
    expect(tokenizer.bosTokenId).toBe(259);
    const spaced = fromTokenizerJson({ ...file, pre_tokenizer: { ...byteLevel, add_prefix_space: true } });
    expect(tokens(spaced, "a")).toEqual(["Ġa"]);
  });

  it("added tokens: stripped white space, whole words, after normalising", () => {
    const added = (flags: object): BpeTokenizer =>
      fromTokenizerJson({ ...file, added_tokens: [{ id: 259, content: "<s>", special: false, ...flags }] });
    expect(tokens(added({}), "a  <s>  b")).toEqual(["a", "Ġ", "Ġ", "<s>", "Ġ", "Ġ", "b"]);
    expect(tokens(added({ lstrip: true }), "a  <s>  b")).toEqual(["a", "<s>", "Ġ", "Ġ", "b"]);
    expect(tokens(added({ rstrip: true }), "a  <s>  b")).toEqual(["a", "Ġ", "Ġ", "<s>", "b"]);
    expect(tokens(added({ single_word: true }), "a<s>b")).not.toContain("<s>");
    expect(tokens(added({ single_word: true }), "a <s> b")).toContain("<s>");
  });

  it("split behaviours", () => {
    const cut = (behavior: string): (string | undefined)[] =>
      tokens(
        fromTokenizerJson({
          ...file,
          pre_tokenizer: {
            type: "Sequence",
            pretokenizers: [
              { type: "Split", pattern: { String: "b" }, behavior, invert: false },
              { ...byteLevel, use_regex: false },
            ],
          },
        }),
        "abbc",
      );
    expect(cut("Removed")).toEqual(["a", "c"]);
    expect(cut("Isolated")).toEqual(["a", "b", "b", "c"]);
    expect(cut("MergedWithPrevious")).toEqual(["ab", "b", "c"]);
    expect(cut("MergedWithNext")).toEqual(["a", "b", "b", "c"]);
    expect(cut("Contiguous")).toEqual(["a", "b", "b", "c"]);
  });

  it("GPT-2's two files, with and without a version line and Windows line ends", () => {
    for (const merges of ["#version: 0.2\na b\nab c\n", "a b\r\nab c\r\n", "a b\nab c"])
      expect(tokens(fromGpt2Files({ vocab, merges }, { addedTokens: [] }), "abc")).toEqual(["abc"]);
    expect(() => fromGpt2Files({ vocab, merges: "#version: 0.2\na b\nab\n" })).toThrow(
      /merges\.txt: line 3 is/,
    );
  });
});

describe("hostile tokenizer files are refused by file, field and reason", () => {
  const deep = (n: number): unknown => JSON.parse(`${"[".repeat(n)}${"]".repeat(n)}`) as unknown;
  const nest = (key: string, type: string, n: number): unknown => {
    let step: unknown = byteLevel;
    for (let i = 0; i < n; i++) step = { type, [key]: [step] };
    return step;
  };
  const cases: Record<string, [unknown, RegExp]> = {
    "no object": [[], /the file is a list|must be a valid object/],
    "no model": [{ ...file, model: undefined }, /model is absent|cannot be read/],
    "an id twice": [withModel({ vocab: { ...vocab, abc: 256 } }), /"ab" and "abc" have the same id 256/],
    "an id that is no integer": [withModel({ vocab: { ...vocab, abc: 1.5 } }), /"abc" has id 1\.5/],
    "an id that is huge": [withModel({ vocab: { ...vocab, abc: 1e15 } }), /"abc" has id/],
    "an id that is text": [
      withModel({ vocab: { ...vocab, abc: "257" } }),
      /\["abc"\] is "257"; it must be an integer/,
    ],
    "a byte missing": [withModel({ vocab: { ...vocab, a: undefined, A: 32 } }), /"a" is not a token/],
    "no merges": [withModel({ merges: undefined }), /model\.merges is absent; it must be a list/],
    "a merge of unknown tokens": [
      withModel({ merges: ["a z"] }),
      /merge 0 \("a", "z"\): "az" is not a token/,
    ],
    "a merge of one token": [
      withModel({ merges: ["ab"] }),
      /model\.merges\[0\] is "ab"; it must be two tokens/,
    ],
    "a merge of three": [withModel({ merges: [["a", "b", "c"]] }), /model\.merges\[0\] is a list of 3/],
    "a merge twice": [withModel({ merges: ["a b", "a b"] }), /merge 1 .* is listed twice/],
    "a merge that circles back": [
      withModel({ merges: ["a b", "ab "] }),
      /model\.merges\[1\] is "ab "; it must be two tokens/,
    ],
    "deep nesting": [withModel({ merges: [deep(1000)] }), /model\.merges\[0\] is a list of 1/],
    "steps nested without end": [
      { ...file, pre_tokenizer: nest("pretokenizers", "Sequence", 2000) },
      /nested too deeply|cannot be read/,
    ],
    "a normaliser nested without end": [
      { ...file, normalizer: nest("normalizers", "Sequence", 2000) },
      /normalizer.*nested too deeply/,
    ],
    "an unknown step": [
      { ...file, normalizer: { type: "Magic" } },
      /normalizer\.type is "Magic"; it is not supported/,
    ],
    "a pattern that is none": [
      { ...file, normalizer: { type: "Replace", pattern: { Regex: "(" }, content: "" } },
      /pattern "\(" cannot be used/,
    ],
    "a pattern that would take for ever": [
      { ...file, normalizer: { type: "Replace", pattern: { Regex: "(a+)+$" }, content: "" } },
      /repeats a repeat, which can take exponential time/,
    ],
    "an added token with another's id": [
      { ...file, added_tokens: [{ id: 5, content: "<s>" }] },
      /added token "<s>" has the id 5 of/,
    ],
    "an empty added token": [
      { ...file, added_tokens: [{ id: 259, content: "" }] },
      /added token 259 is empty/,
    ],
    "a template of unknown tokens": [
      { ...file, post_processor: { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<x>" } }] } },
      /post_processor\.single\[0\]\.SpecialToken\.id is "<x>", which is not a token/,
    ],
  };
  for (const [what, [root, reason]] of Object.entries(cases))
    it(what, async () => {
      expect(await outcome(root)).toMatch(reason);
    });

  it("text that is no JSON, or none at all", async () => {
    const load = (files: Record<string, string>): Promise<unknown> =>
      loadTokenizer((name) => Promise.resolve(files[name]));
    await expect(load({ "tokenizer.json": "{" })).rejects.toThrow(/tokenizer\.json: is not JSON/);
    await expect(load({})).rejects.toThrow(/neither tokenizer\.json nor vocab\.json and merges\.txt/);
  });
});

const runs = (n: number): { numRuns: number; seed: number } => ({
  numRuns: Number(process.env["FUZZ_RUNS"] ?? n),
  seed: Number(process.env["FUZZ_SEED"] ?? 1) | 0,
});

describe("fuzz: tokenizer files", () => {
  it("any JSON is read or refused", async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), async (root) => {
        await outcome(root);
      }),
      runs(300),
    );
  });

  it("a right file with a field changed is read or refused", async () => {
    const paths = ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"];
    const step = fc.record(
      {
        type: fc.constantFrom(
          "Sequence",
          "Split",
          "ByteLevel",
          "Replace",
          "TemplateProcessing",
          "Digits",
          "Strip",
          "NFC",
          "x",
        ),
        pattern: fc.oneof(
          fc.record({ Regex: fc.string() }),
          fc.record({ String: fc.string() }),
          fc.jsonValue(),
        ),
        behavior: fc.constantFrom("Removed", "Isolated", "MergedWithNext", 1, null),
        normalizers: fc.jsonValue(),
        pretokenizers: fc.jsonValue(),
        content: fc.oneof(fc.string(), fc.jsonValue()),
        single: fc.jsonValue(),
      },
      { requiredKeys: ["type"] },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...paths),
        fc.oneof(fc.jsonValue(), step, fc.array(step)),
        fc.string(),
        async (path, value, text) => {
          await outcome({ ...file, [path]: value }, text);
        },
      ),
      runs(500),
    );
  });

  it("a right model with its vocabulary or merges changed is read or refused", async () => {
    const token = fc.oneof(fc.constantFrom(...Object.keys(vocab)), fc.string());
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(token, fc.oneof(fc.integer({ min: -2, max: 300 }), fc.double(), fc.jsonValue()), {
          maxKeys: 3,
        }),
        fc.array(fc.oneof(fc.tuple(token, token), token, fc.jsonValue()), { maxLength: 4 }),
        async (changes, merges) => {
          await outcome(
            withModel({ vocab: { ...vocab, ...changes }, merges: [...file.model.merges, ...merges] }),
          );
        },
      ),
      runs(300),
    );
  });

  it("bytes of a right file changed", async () => {
    const text = JSON.stringify(file);
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: text.length - 1 }),
        fc.string({ maxLength: 3 }),
        fc.nat({ max: 4 }),
        async (at, put, cut) => {
          const changed = text.slice(0, at) + put + text.slice(at + cut);
          let root: unknown;
          try {
            root = JSON.parse(changed);
          } catch {
            return;
          }
          await outcome(root);
        },
      ),
      runs(300),
    );
  });
});
