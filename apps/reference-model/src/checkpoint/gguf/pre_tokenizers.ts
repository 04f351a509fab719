import { GPT2_PATTERN as GPT2 } from "@x/tokenizer";

/**
 * How texts are split before merges apply, by `tokenizer.ggml.pre`: the patterns of the models' own tokenizer.json
 * files, which are applied one after the other.
 */

const contractions = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)`;
/** Words with at most one sign before them, runs of at most `digits` digits, signs with the line ends behind them. */
const words = (digits: string): string =>
  String.raw`${contractions}|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const LLAMA3 = words(String.raw`\p{N}{1,3}`);
const QWEN2 = words(String.raw`\p{N}`);
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
/** As `words`, split where a small letter is followed by a capital one. */
const cased = (digits: string, after: string): string =>
  String.raw`[^\r\n\p{L}\p{N}]?${UPPER}*${LOWER}+${after}|[^\r\n\p{L}\p{N}]?${UPPER}+${LOWER}*${after}|${digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

export interface PreTokenizer {
  readonly patterns: readonly string[];
  /** A word that is a token is not merged from its characters. */
  readonly ignoreMerges?: true;
  /** Texts are brought to Unicode's form C first. */
  readonly nfc?: true;
  /** A text begins with the beginning's token, unless the file says otherwise. */
  readonly addBos?: true;
}

const gpt2: PreTokenizer = { patterns: [GPT2] };
const llama3: PreTokenizer = { patterns: [LLAMA3], ignoreMerges: true, addBos: true };
const qwen2: PreTokenizer = { patterns: [QWEN2], nfc: true };
const digitsApart: PreTokenizer = { patterns: [String.raw`\p{N}`, GPT2] };
const falcon: PreTokenizer = { patterns: [String.raw`[\p{P}$+<=>^~|\x60]+`, GPT2, "[0-9][0-9][0-9]"] };
const bloom: PreTokenizer = { patterns: [String.raw` ?[^(\s|.,!?…。，、।۔،)]+`] };
const fallback: PreTokenizer = {
  patterns: [String.raw`[\p{P}$+<=>^~|]+`, GPT2, String.raw`\p{N}+`, "[0-9][0-9][0-9]"],
};

/** Values of `tokenizer.ggml.pre`. */
export const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizer>> = {
  default: fallback,
  "gpt-2": gpt2,
  "phi-2": gpt2,
  mpt: gpt2,
  olmo: gpt2,
  jais: gpt2,
  "llama-bpe": llama3,
  "llama-v3": llama3,
  llama3,
  dbrx: { patterns: [LLAMA3] },
  "smaug-bpe": { patterns: [LLAMA3] },
  "chatglm-bpe": { patterns: [LLAMA3] },
  qwen2,
  "deepseek-r1-qwen": qwen2,
  stablelm2: { patterns: [QWEN2] },
  starcoder: digitsApart,
  refact: digitsApart,
  "command-r": digitsApart,
  smollm: digitsApart,
  codeshell: digitsApart,
  exaone: digitsApart,
  falcon,
  bloom,
  tekken: { patterns: [cased(String.raw`\p{N}`, "")], ignoreMerges: true, addBos: true },
  "gpt-4o": { patterns: [cased(String.raw`\p{N}{1,3}`, `${contractions}?`)] },
};
