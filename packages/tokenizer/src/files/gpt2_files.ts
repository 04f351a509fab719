import { expectOptions, expectText } from "../arguments.js";
import { BpeTokenizer, splitBy, stepsOfPattern } from "../bpe/bpe.js";
import { JsonReader } from "../json_reader.js";
import { compilePattern, GPT2_PATTERN } from "../pattern/pattern.js";
import { parseMerge, parseVocab } from "../bpe/vocabulary.js";

/** Read GPT-2's two files: the parsed vocab.json and the text of merges.txt. @throws TokenizerError */
export function fromGpt2Files(
  files: { readonly vocab: unknown; readonly merges: string },
  options: { readonly addedTokens?: readonly string[] } = {},
): BpeTokenizer {
  expectOptions("fromGpt2Files", files, ["vocab", "merges"]);
  expectOptions("fromGpt2Files", options, ["addedTokens"]);
  expectText("fromGpt2Files", "merges", files.merges);
  const r = new JsonReader("vocab.json");
  const vocab = parseVocab(r, "the file", files.vocab);
  const m = new JsonReader("merges.txt");
  const merges = files.merges
    .split("\n")
    .map((line) => line.replace(/\r$/, ""))
    .flatMap((line, i) =>
      line === "" || (i === 0 && line.startsWith("#version")) ? [] : [parseMerge(m, `line ${i + 1}`, line)],
    );
  const special = options.addedTokens ?? ["<|endoftext|>"];
  const preTokenizers = splitBy(compilePattern("GPT-2", GPT2_PATTERN));
  return new BpeTokenizer({
    source: "vocab.json",
    vocab,
    merges,
    addedTokens: special.flatMap((content) =>
      vocab[content] === undefined ? [] : [{ id: vocab[content], content, special: true }],
    ),
    preTokenizers,
    bosToken: special[0],
    eosToken: special[0],
    written: stepsOfPattern(GPT2_PATTERN, preTokenizers),
  });
}
