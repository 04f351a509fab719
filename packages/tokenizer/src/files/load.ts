import { expectOptions, show } from "../arguments.js";
import { TokenizerError, UnsupportedStepError } from "../errors.js";
import { fromGpt2Files } from "./gpt2_files.js";
import { otherTokenizer } from "./other.js";
import { isRecord } from "../json_reader.js";
import type { LengthOptions } from "../steps/lengths.js";
import type { Tokenizer } from "../tokenizer.js";
import { fromTokenizerJson } from "./tokenizer_json.js";

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
    throw new TokenizerError(
      name,
      `is not JSON (${cause instanceof Error ? cause.message : String(cause)})`,
      {
        cause,
      },
    );
  }
}

/** A tokenizer.json read here where every step is known here, else through the library for other families. */
async function fromRoot(root: unknown, config: unknown, options: LengthOptions): Promise<Tokenizer> {
  const model = isRecord(root) ? root["model"] : undefined;
  const bpe = isRecord(model) && (model["type"] ?? (model["merges"] === undefined ? "" : "BPE")) === "BPE";
  if (!bpe) return otherTokenizer(root, config, "tokenizer.json", options);
  try {
    return fromTokenizerJson(root, { ...options, config });
  } catch (error) {
    if (!(error instanceof UnsupportedStepError)) throw error;
    try {
      return await otherTokenizer(root, config, "tokenizer.json", options);
    } catch (cause) {
      const also = cause instanceof Error ? cause.message : String(cause);
      throw new TokenizerError("tokenizer.json", `${error.message}; through the library: ${also}`, { cause });
    }
  }
}

/**
 * The tokenizer of a model folder: `tokenizer.json` (BPE here, other families and steps through
 * `@huggingface/tokenizers`), else GPT-2's `vocab.json` and `merges.txt`. A file's `truncation` and `padding` hold for
 * every text that is encoded, as in the format's library; the options switch them off.
 *
 * @throws TokenizerError
 */
export async function loadTokenizer(read: ReadText, options: LengthOptions = {}): Promise<Tokenizer> {
  if (typeof read !== "function")
    throw new TokenizerError(
      "loadTokenizer",
      `read is ${show(read)}; it must be a function of a file's name`,
    );
  expectOptions("loadTokenizer", options, ["truncation", "padding"]);
  const config = await json(read, "tokenizer_config.json");
  const root = await json(read, "tokenizer.json");
  if (root !== undefined) return fromRoot(root, config, options);
  const vocab = await json(read, "vocab.json");
  const merges = await read("merges.txt");
  if (vocab === undefined || merges === undefined)
    throw new TokenizerError(
      "tokenizer",
      "the folder holds neither tokenizer.json nor vocab.json and merges.txt",
    );
  return fromGpt2Files({ vocab, merges });
}
