import { describe, expect, it } from "vitest";
import { BYTE_ALPHABET, neverInUtf8, SYMBOL_BYTES } from "../pattern/byte_symbols.js";
import { BpeTokenizer, fromTokenizerJson, toTokenizerJson } from "../index.js";

// Expected values are those of Hugging Face's Rust library 0.23.2 on the same file.

const bytes = BYTE_ALPHABET.map((symbol, id) => [symbol, id] as const);
const byteLevel = { type: "ByteLevel", add_prefix_space: false, use_regex: false };

/** A byte-level file without merges: every byte is a token. */
function file(changes: object = {}, model: object = {}): object {
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: { type: "ByteLevel" },
    ...changes,
    model: { type: "BPE", vocab: Object.fromEntries(bytes), merges: [], ...model },
  };
}
/** What a normaliser makes of a text. */
const normalized = (normalizer: object, text: string): string => {
  const tokenizer = fromTokenizerJson(file({ normalizer }));
  return tokenizer.decode(tokenizer.encode(text));
};

describe("normalisers", () => {
  it("Lowercase goes by character: no final sigma", () => {
    expect(normalized({ type: "Lowercase" }, "ΟΔΟΣ İ")).toBe("οδοσ i̇");
  });

  it("StripAccents takes every mark: Mn, Mc and Me", () => {
    expect(normalized({ type: "StripAccents" }, "aः⃝e\u0301é")).toBe("aeé");
  });

  it("BertNormalizer", () => {
    const text = "ΟΔΟΣ Ünï\u0000\u0085中a\ufffd\u0007x ः\u200d\u0378\u3000y";
    expect(normalized({ type: "BertNormalizer" }, text)).toBe("οδοσ uni 中 ax ः\u0378 y");
    expect(normalized({ type: "BertNormalizer", lowercase: false, handle_chinese_chars: false }, text)).toBe(
      "ΟΔΟΣ Ünï中ax ः\u0378 y",
    );
  });

  const token = { id: 256, content: "<Tok>", normalized: true };
  const found: Record<string, readonly [object | null, string]> = {
    nothing: [null, "<Tok>"],
    Lowercase: [{ type: "Lowercase" }, "<TOK>"],
    NFKC: [{ type: "NFKC" }, "<Ｔok>"],
    Prepend: [{ type: "Prepend", prepend: "_" }, "<Tok>"],
    Replace: [{ type: "Replace", pattern: { String: "o" }, content: "0" }, "<T0k>"],
  };
  for (const [name, [normalizer, text]] of Object.entries(found))
    it(`an added token is normalised itself, under ${name}`, () => {
      expect(fromTokenizerJson(file({ normalizer, added_tokens: [token] })).encode(text)).toEqual([256]);
    });

  for (const normalizer of [
    { type: "NFD" },
    { type: "Sequence", normalizers: [{ type: "NFD" }, { type: "StripAccents" }] },
  ])
    it(`an added token with an accent is normalised itself, under ${normalizer.type}`, () => {
      const added_tokens = [{ ...token, content: "<é>" }];
      expect(fromTokenizerJson(file({ normalizer, added_tokens })).encode("<é>")).toEqual([256]);
    });
});

describe("added tokens", () => {
  it("one that takes the space after it leaves a token that is in that space", () => {
    const added_tokens = [
      { id: 256, content: "<mask>", rstrip: true },
      { id: 257, content: "\n" },
    ];
    const tokenizer = fromTokenizerJson(file({ added_tokens }));
    const [space, x] = [tokenizer.tokenToId("Ġ")!, tokenizer.tokenToId("x")!];
    expect(tokenizer.encode("<mask> \n x")).toEqual([256, 257, space, x]);
    expect(tokenizer.encode("<mask>\n<mask>")).toEqual([256, 257, 256]);
  });

  it("special ones are found, or not, or only the listed ones", () => {
    const added_tokens = [
      { id: 256, content: "<s>", special: true },
      { id: 257, content: "</s>", special: true },
    ];
    const tokenizer = fromTokenizerJson(file({ added_tokens }));
    const text = "a<s>b</s>";
    expect(tokenizer.encode(text)).toHaveLength(4);
    expect(tokenizer.encode(text, { allowedSpecial: "none" })).toHaveLength(9);
    expect(tokenizer.encode(text, { allowedSpecial: ["<s>"] })).toHaveLength(7);
  });
});

describe("vocabularies as published", () => {
  it("bytes that UTF-8 never has may be missing, others not (MPT, Pythia, StarCoder, Refact, Falcon)", () => {
    const real = bytes.filter(([symbol]) => !neverInUtf8(SYMBOL_BYTES.get(symbol)!));
    expect(real).toHaveLength(256 - 13);
    const tokenizer = fromTokenizerJson(file({}, { vocab: Object.fromEntries(real) }));
    const text = "naïve 中 😀\u{10ffff}";
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    const less = Object.fromEntries(real.filter(([symbol]) => symbol !== "a"));
    expect(() => fromTokenizerJson(file({}, { vocab: less }))).toThrow(/byte 97 \("a"\) is not a token/);
  });

  it("ids may have gaps (cl100k, o200k); an id in one gives nothing", () => {
    const tokenizer = fromTokenizerJson(file({ added_tokens: [{ id: 300, content: "<s>" }] }));
    expect(tokenizer.vocabSize).toBe(301);
    expect(tokenizer.idToToken(280)).toBeUndefined();
    expect(tokenizer.decode([280, 300, 280])).toBe("<s>");
  });

  it("steps after ByteLevel see byte symbols (Falcon's digits)", () => {
    const pre_tokenizer = {
      type: "Sequence",
      pretokenizers: [
        { type: "Punctuation", behavior: "Contiguous" },
        { type: "ByteLevel", add_prefix_space: false, use_regex: true },
        { type: "Digits", individual_digits: false },
        { type: "Split", pattern: { Regex: "[0-9][0-9][0-9]" }, behavior: "Isolated", invert: false },
      ],
    };
    // ½ is the bytes c2 bd, whose symbols are Â and ½; the second is a digit to Unicode, and cut off.
    const vocab = { ...Object.fromEntries(bytes), "Â½": 256, ĠÂ: 257, Ġ4: 258, "ĠÂ½": 259 };
    const merges = ["Â ½", "Ġ Â", "Ġ 4", "ĠÂ ½"];
    const tokenizer = fromTokenizerJson(file({ pre_tokenizer }, { vocab, merges }));
    const tokens = tokenizer.encode("ied 4 ½ months").map((id) => tokenizer.idToToken(id));
    expect(tokens).toEqual([...Array.from("ied"), "Ġ", "4", "ĠÂ", "½", "Ġ", ...Array.from("months")]);
  });

  it("an unknown character is the unknown token, fused where the file says so", () => {
    const model = { vocab: { a: 0, b: 1, "<unk>": 2 }, unk_token: "<unk>" };
    const changes = { pre_tokenizer: null, decoder: { type: "Fuse" } };
    expect(fromTokenizerJson(file(changes, model)).encode("axyb")).toEqual([0, 2, 2, 1]);
    expect(fromTokenizerJson(file(changes, { ...model, fuse_unk: true })).encode("axyb")).toEqual([0, 2, 1]);
  });
});

describe("what a file says of a text's length", () => {
  const around = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>" } }, { Sequence: { id: "A" } }, { SpecialToken: { id: "</s>" } }],
  };
  const parts = {
    added_tokens: [
      { id: 256, content: "<s>", special: true },
      { id: 257, content: "</s>", special: true },
      { id: 258, content: "<pad>", special: true },
    ],
    post_processor: around,
    truncation: { direction: "Right", max_length: 5, strategy: "LongestFirst", stride: 0 },
    padding: { strategy: { Fixed: 7 }, direction: "Left", pad_to_multiple_of: null, pad_id: 258 },
  };
  const names = (json: object, text: string, options = {}): string =>
    ((t) =>
      t
        .encode(text)
        .map((id) => t.idToToken(id))
        .join(" "))(fromTokenizerJson(json, options));

  it("truncation and padding are done", () => {
    expect(names(file(parts), "abcdef")).toBe("<pad> <pad> <s> a b c </s>");
    expect(names(file({ ...parts, truncation: { ...parts.truncation, direction: "Left" } }), "abcdef")).toBe(
      "<pad> <pad> <s> d e f </s>",
    );
    const right = { strategy: "BatchLongest", direction: "Right", pad_to_multiple_of: 4, pad_id: 258 };
    expect(names(file({ ...parts, truncation: null, padding: right }), "abc")).toBe(
      "<s> a b c </s> <pad> <pad> <pad>",
    );
  });

  it("truncation and padding are switched off by options", () => {
    expect(names(file(parts), "abcdef", { truncation: false, padding: false })).toBe("<s> a b c d e f </s>");
  });

  it("dropout and a strategy for two texts are refused", () => {
    expect(() => fromTokenizerJson(file({}, { dropout: 0.1 }))).toThrow(/model\.dropout is 0\.1/);
    expect(fromTokenizerJson(file({}, { dropout: 0 })).encode("a")).toHaveLength(1);
    const truncation = { max_length: 5, strategy: "OnlySecond" };
    expect(() => fromTokenizerJson(file({ truncation }))).toThrow(/truncation\.strategy/);
  });
});

describe("writing a tokenizer.json", () => {
  it("holds every step of the file that was read", () => {
    const json = file({
      normalizer: { type: "Sequence", normalizers: [{ type: "NFC" }, { type: "Lowercase" }] },
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [{ type: "Digits", individual_digits: true }, byteLevel],
      },
      padding: { strategy: { Fixed: 20 }, direction: "Right", pad_id: 0 },
    });
    const [read, text] = [fromTokenizerJson(json), "ÉΣ 12 Cafe\u0301"];
    const again = fromTokenizerJson(JSON.parse(JSON.stringify(toTokenizerJson(read))));
    expect(again.encode(text)).toEqual(read.encode(text));
    expect(toTokenizerJson(read)).toMatchObject({ normalizer: { type: "Sequence" } });
  });

  it("refuses a normaliser that is a function, and a pattern that is another", () => {
    const trained = BpeTokenizer.train(["a b"], { vocabSize: 256 });
    const changed = new BpeTokenizer({ ...trained.options, normalize: (text) => text.toLowerCase() });
    expect(() => toTokenizerJson(changed)).toThrow(/normalize of the tokenizer were not read from a file/);
    expect(() => toTokenizerJson(trained, "\\d+")).toThrow(/the tokenizer splits by/);
    const made = new BpeTokenizer({ vocab: Object.fromEntries(bytes), merges: [] });
    expect(() => toTokenizerJson(made)).toThrow(/cannot hold functions/);
  });
});
