import { describe, expect, it } from "vitest";
import { loadTokenizer, type Tokenizer } from "../index.js";

const WORDS = ["▁Tom", "▁was", "▁a", "▁kind", "▁cat"];

/** A small file in the form of Llama 2's: characters, byte fallback, ▁ for a space, one put before a text. */
function llama2(): object {
  const vocab = new Map<string, number>();
  const put = (token: string): void => {
    if (!vocab.has(token)) vocab.set(token, vocab.size);
  };
  ["<unk>", "<s>", "</s>"].forEach(put);
  for (let byte = 0; byte < 256; byte++) put(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  Array.from("▁Tomwasakindct</>b").forEach(put);
  const merges: string[] = [];
  for (const word of WORDS)
    for (let n = 2; n <= word.length; n++) {
      const merge = `${word.slice(0, n - 1)} ${word[n - 1]!}`;
      put(word.slice(0, n));
      if (!merges.includes(merge)) merges.push(merge);
    }
  const special = (content: string): object => ({ id: vocab.get(content), content, special: true });
  return {
    added_tokens: ["<unk>", "<s>", "</s>"].map(special),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
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
      vocab: Object.fromEntries(vocab),
      merges,
      byte_fallback: true,
      fuse_unk: true,
      unk_token: "<unk>",
    },
  };
}

/** The same words as a WordPiece and as a Unigram file, which go through the library. */
const wordPiece = {
  added_tokens: ["[UNK]", "[CLS]", "[SEP]"].map((content, id) => ({ id, content, special: true })),
  normalizer: { type: "BertNormalizer", lowercase: false },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: { type: "BertProcessing", cls: ["[CLS]", 1], sep: ["[SEP]", 2] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: false },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(
      ["[UNK]", "[CLS]", "[SEP]", "Tom", "was", "a", "kind", "cat", "##s"].map((t, i) => [t, i]),
    ),
  },
};
const unigram = {
  added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({ id, content, special: true })),
  normalizer: null,
  pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  post_processor: null,
  decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  model: {
    type: "Unigram",
    unk_id: 0,
    vocab: [
      ...["<unk>", "<s>", "</s>"].map((t) => [t, 0]),
      ...[...WORDS, ...Array.from("▁Tomwasakindct</>b")].map((t, i) => [t, -1 - i / 10]),
    ],
  },
};

const load = (root: object, options = {}): Promise<Tokenizer> =>
  loadTokenizer(
    (name) => Promise.resolve(name === "tokenizer.json" ? JSON.stringify(root) : undefined),
    options,
  );
const files: Record<string, object> = { "Llama 2's": llama2(), WordPiece: wordPiece, Unigram: unigram };

describe("families whose tokens depend on what is before them", () => {
  for (const [name, root] of Object.entries(files)) {
    it(`${name}: a text that goes on keeps the space before its first word`, async () => {
      const tokenizer = await load(root);
      const text = "Tom was a kind cat";
      const ids = tokenizer.encode(text, { addSpecialTokens: false });
      expect(tokenizer.decode(ids)).toBe(text);
      for (let n = 0; n <= ids.length; n++) {
        const [prompt, rest] = [ids.slice(0, n), ids.slice(n)];
        const first = tokenizer.decode(prompt);
        expect(first + tokenizer.decode(rest, { after: prompt }), String(n)).toBe(text);
        const stream = tokenizer.decoder({ after: prompt, skipSpecialTokens: true });
        expect(first + rest.map((id) => stream.push(id)).join("") + stream.end(), String(n)).toBe(text);
      }
    });

    it(`${name}: an id that no token has gives nothing`, async () => {
      const tokenizer = await load(root);
      const ids = tokenizer.encode("Tom was a cat", { addSpecialTokens: false });
      const far = tokenizer.vocabSize + 7;
      const holes = [far, ...ids.flatMap((id) => [id, far])];
      expect(tokenizer.decode(holes)).toBe("Tom was a cat");
      const stream = tokenizer.decoder();
      expect(holes.map((id) => stream.push(id)).join("") + stream.end()).toBe("Tom was a cat");
      expect(tokenizer.decode([far])).toBe("");
    });

    it(`${name}: a stream costs the same for each token`, async () => {
      const tokenizer = await load(root);
      const ids = tokenizer.encode("Tom was a kind cat", { addSpecialTokens: false });
      const time = (count: number): number => {
        let best = Infinity;
        for (let i = 0; i < 3; i++) {
          const start = process.cpuUsage();
          const stream = tokenizer.decoder();
          for (let n = 0; n < count; n++) stream.push(ids[n % ids.length]!);
          stream.end();
          best = Math.min(best, process.cpuUsage(start).user / 1000);
        }
        return Math.max(best, 2);
      };
      time(2000);
      // Eight times the tokens; quadratic time would be 64 times as long.
      expect(time(16_000) / time(2000)).toBeLessThan(24);
    });

    it(`${name}: special tokens in a text are found, or not`, async () => {
      const tokenizer = await load(root);
      const end = tokenizer.tokenToId("</s>") ?? tokenizer.tokenToId("[SEP]")!;
      const text = `a${tokenizer.idToToken(end)!}b`;
      expect(tokenizer.encode(text, { addSpecialTokens: false })).toContain(end);
      const none = tokenizer.encode(text, { addSpecialTokens: false, allowedSpecial: "none" });
      expect(none).not.toContain(end);
      expect(none.length).toBeGreaterThan(1);
      expect(tokenizer.encode(text, { addSpecialTokens: false, allowedSpecial: ["<other>"] })).toEqual(none);
    });
  }

  it("Llama 2's: tokens, and bytes where a character is not one", async () => {
    const tokenizer = await load(llama2());
    const names = (text: string): (string | undefined)[] =>
      tokenizer.encode(text).map((id) => tokenizer.idToToken(id));
    expect(names("Tom was")).toEqual(["<s>", "▁Tom", "▁was"]);
    expect(names("é")).toEqual(["<s>", "▁", "<0xC3>", "<0xA9>"]);
    expect(tokenizer.decode(tokenizer.encode("a é中a", { addSpecialTokens: false }))).toBe("a é中a");
    const [lead, tail] = [tokenizer.tokenToId("<0xC3>")!, tokenizer.tokenToId("<0xA9>")!];
    const stream = tokenizer.decoder();
    expect([stream.push(lead), stream.push(tail), stream.push(lead), stream.end()]).toEqual([
      "",
      "é",
      "",
      "\ufffd",
    ]);
  });

  it("a file for the library is held to its truncation; dropout and patterns it would misread are refused", async () => {
    const truncation = { direction: "Right", max_length: 4, strategy: "LongestFirst", stride: 0 };
    const tokenizer = await load({ ...wordPiece, truncation });
    expect(tokenizer.encode("Tom was a kind cat")).toEqual([1, 3, 4, 2]);
    const whole = await load({ ...wordPiece, truncation }, { truncation: false });
    expect(whole.encode("Tom was a kind cat")).toEqual([1, 3, 4, 5, 6, 7, 2]);
    await expect(load({ ...unigram, model: { ...unigram.model, dropout: 0.5 } })).rejects.toThrow(/dropout/);
    const replace = { type: "Replace", pattern: { Regex: "(a)|b\\1" }, content: "" };
    await expect(load({ ...unigram, normalizer: replace })).rejects.toThrow(/refers back to a group/);
    const pre_tokenizer = {
      type: "Sequence",
      pretokenizers: [
        { type: "FixedLength", length: 3 },
        { type: "Split", pattern: { Regex: "\\d+$" }, behavior: "Isolated", invert: false },
      ],
    };
    await expect(load({ ...unigram, pre_tokenizer })).rejects.toThrow(/only plain patterns are taken/);
  });

  it("a step that is not done here goes to the library, and what neither does is refused by both", async () => {
    const model = { ...(llama2() as { model: object }).model, end_of_word_suffix: "</w>" };
    const clip = await load({ ...llama2(), model });
    expect(clip.vocabSize).toBeGreaterThan(256);
    await expect(load({ ...llama2(), normalizer: { type: "Magic" } })).rejects.toThrow(
      /normalizer\.type is "Magic"; it is not supported here; through the library: .*Magic/,
    );
  });
});
