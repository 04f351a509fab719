import { loadTokenizer, type Tokenizer } from "@x/tokenizer";

/** The letters that byte-level tokenizers write for bytes: printable ones for themselves, the others from U+0100 on. */
function byteLetters(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCodePoint(printable ? byte : next++);
  });
}

/** A tokenizer of 256 ids, one for each byte. */
export async function byteTokenizer(): Promise<Tokenizer> {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const json = {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      unk_token: null,
      byte_fallback: false,
      vocab: Object.fromEntries(byteLetters().map((letter, byte) => [letter, byte])),
      merges: [],
    },
  };
  const text = JSON.stringify(json);
  return await loadTokenizer((name) => Promise.resolve(name === "tokenizer.json" ? text : undefined));
}
