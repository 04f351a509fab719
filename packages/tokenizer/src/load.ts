import { TokenizerError } from "./errors.js";
import { fromGpt2Files } from "./gpt2_files.js";
import { otherTokenizer } from "./other.js";
import type { Tokenizer } from "./tokenizer.js";
import { fromTokenizerJson, isByteLevelBpe } from "./tokenizer_json.js";

/** Gives a file of a folder as text, or undefined where there is none: the file system, a fetch, a zip. */
export type ReadText = (name: string) => Promise<string | undefined>;

/** Largest file that is parsed, in characters. */
const MAX_TEXT = 256 * 2 ** 20;

async function json(read: ReadText, name: string): Promise<unknown> {
  const text = await read(name);
  if (text === undefined) return undefined;
  if (text.length > MAX_TEXT)
    throw new TokenizerError(name, `has ${text.length} characters; at most ${MAX_TEXT} are read`);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new TokenizerError(name, `is no JSON (${cause instanceof Error ? cause.message : String(cause)})`, {
      cause,
    });
  }
}

/**
 * The tokenizer of a model folder: `tokenizer.json` (byte-level BPE here, other families through
 * `@huggingface/tokenizers`), else GPT-2's `vocab.json` and `merges.txt`.
 *
 * @throws TokenizerError
 */
export async function loadTokenizer(read: ReadText): Promise<Tokenizer> {
  const config = await json(read, "tokenizer_config.json");
  const root = await json(read, "tokenizer.json");
  if (root !== undefined)
    return isByteLevelBpe(root) ? fromTokenizerJson(root, { config }) : otherTokenizer(root, config);
  const vocab = await json(read, "vocab.json");
  const merges = await read("merges.txt");
  if (vocab === undefined || merges === undefined)
    throw new TokenizerError(
      "tokenizer",
      "the folder holds neither tokenizer.json nor vocab.json and merges.txt",
    );
  return fromGpt2Files({ vocab, merges });
}
