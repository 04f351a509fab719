import { describe, expect, it } from "vitest";
import { BpeTokenizer, fromGpt2Files, fromTokenizerJson, loadTokenizer, TokenizerError } from "./index.js";

const trained = BpeTokenizer.train(["the cat sat"], { vocabSize: 260, specialTokens: ["<s>"] });
/** A value that the types refuse. */
const any = (value: unknown): never => value as never;

const wrong: Record<string, readonly [() => unknown, RegExp]> = {
  "encode with another library's option": [
    () => trained.encode("a", any({ add_special_tokens: false })),
    /unknown option add_special_tokens \(did you mean addSpecialTokens\?\)/,
  ],
  "encode(undefined)": [() => trained.encode(any(undefined)), /the text is absent; it must be a string/],
  "encode(5)": [() => trained.encode(any(5)), /the text is 5; it must be a string/],
  "encode with true for options": [() => trained.encode("a", any(true)), /the options are true/],
  "encode with a flag that is text": [
    () => trained.encode("a", any({ addSpecialTokens: "no" })),
    /addSpecialTokens is "no"; it must be true or false/,
  ],
  "encode allowing what is no list": [
    () => trained.encode("a", any({ allowedSpecial: "<s>" })),
    /allowedSpecial is "<s>"/,
  ],
  "decode with another library's option": [
    () => trained.decode([1], any({ skip_special_tokens: true })),
    /did you mean skipSpecialTokens\?/,
  ],
  "decode of one id": [() => trained.decode(any(5)), /the ids are 5; they must be a list of ids/],
  "decode(undefined)": [() => trained.decode(any(undefined)), /the ids are absent/],
  "decode of text": [() => trained.decode(any(["a"])), /the ids hold "a"/],
  "decodeBytes of one id": [() => trained.decodeBytes(any(5)), /the ids are 5/],
  "decoder with an unknown option": [() => trained.decoder(any({ skip: true })), /unknown option skip/],
  "decoder's push of a list": [() => trained.decoder().push(any([1, 2])), /the ids hold a list of 2/],
  "decoding after what are no ids": [() => trained.decode([1], { after: any("x") }), /the ids of after/],
  "train on a string": [
    () => BpeTokenizer.train("a string", { vocabSize: 260 }),
    /the texts are "a string"; they must be a list of strings/,
  ],
  "train on numbers": [() => BpeTokenizer.train(any([1]), { vocabSize: 260 }), /a text is 1/],
  "train without options": [() => BpeTokenizer.train(["a"], any(undefined)), /the options are absent/],
  "train with an unknown option": [
    () => BpeTokenizer.train(["a"], any({ vocab_size: 260 })),
    /unknown option vocab_size \(did you mean vocabSize\?\)/,
  ],
  "train with one special token as text": [
    () => BpeTokenizer.train(["a"], any({ vocabSize: 260, specialTokens: "<s>" })),
    /specialTokens is "<s>"/,
  ],
  "train with a special token twice": [
    () => BpeTokenizer.train(["a"], { vocabSize: 260, specialTokens: ["<s>", "<s>"] }),
    /lists a token twice/,
  ],
  "a tokenizer with an unknown option": [
    () => new BpeTokenizer(any({ ...trained.options, ignore_merges: true })),
    /did you mean ignoreMerges\?/,
  ],
  "fromTokenizerJson with an unknown option": [
    () => fromTokenizerJson({}, any({ flie: "x" })),
    /unknown option flie \(did you mean file\?\)/,
  ],
  "fromGpt2Files without merges": [() => fromGpt2Files(any({ vocab: {} })), /merges is absent/],
};

describe("wrong arguments are refused by name", () => {
  for (const [what, [call, reason]] of Object.entries(wrong))
    it(what, () => {
      expect(call).toThrow(reason);
      expect(call).toThrow(TokenizerError);
    });

  it("loadTokenizer", async () => {
    await expect(loadTokenizer(any("folder"))).rejects.toThrow(/read is "folder"; it must be a function/);
    await expect(loadTokenizer(() => Promise.resolve(undefined), any({ truncate: true }))).rejects.toThrow(
      /did you mean truncation\?/,
    );
  });
});
