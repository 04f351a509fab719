import { AddedTokens, type AddedToken } from "../steps/added_tokens.js";
import { expectIds, expectOptions, show } from "../arguments.js";
import { BYTE_SYMBOLS, byteSymbols, neverInUtf8 } from "../pattern/byte_symbols.js";
import { byteLevelStep, DecodeChain, tokenBytes, type DecodeSteps } from "../steps/decoder_steps.js";
import { TokenizerError, UnsupportedStepError } from "../errors.js";
import { fit, type Lengths } from "../steps/lengths.js";
import { applyMerges, MergeTable } from "./merge.js";
import { compilePattern, GPT2_PATTERN } from "../pattern/pattern.js";
import { preTokenize, type PreTokenizer } from "../steps/pre_tokenizer.js";
import { decodeArguments, encodeArguments } from "../tokenizer.js";
import type { DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer } from "../tokenizer.js";
import { learnMerges } from "./train.js";
import { Vocabulary } from "./vocabulary.js";

export interface BpeOptions {
  /** Names the tokenizer in errors. */
  readonly source?: string;
  /** Id of each token; a byte-level one is written in GPT-2's byte symbols. */
  readonly vocab: Readonly<Record<string, number>>;
  /** Pairs of tokens, the first merged first. */
  readonly merges: readonly (readonly [string, string])[];
  readonly addedTokens?: readonly AddedToken[];
  readonly normalize?: (text: string) => string;
  readonly preTokenizers?: readonly PreTokenizer[];
  /** What merges begin with: the bytes of a word (default), or its characters. */
  readonly alphabet?: "bytes" | "characters";
  /** A character that is not a token is that of its bytes, <0x00> to <0xFF>. */
  readonly byteFallback?: boolean;
  /** Stands for a character that is not a token; without it such a character gives nothing. */
  readonly unkToken?: string | undefined;
  /** Unknown characters side by side are one unknown token. */
  readonly fuseUnk?: boolean;
  /** A word that is a token is taken whole. */
  readonly ignoreMerges?: boolean;
  /** Special tokens before and after a text. */
  readonly template?: { readonly before: readonly number[]; readonly after: readonly number[] };
  /** Cut and fill up. */
  readonly lengths?: Lengths;
  /** How tokens become text; default: bytes behind symbols. */
  readonly decoder?: DecodeSteps;
  readonly bosToken?: string | undefined;
  readonly eosToken?: string | undefined;
  /** The steps as `tokenizer.json` writes them, for `toTokenizerJson`. */
  readonly written?: WrittenSteps | undefined;
}

/** Steps of a tokenizer.json, unread. */
export interface WrittenSteps {
  /** What the steps were read to: options that hold other ones are not those of the file. */
  readonly read: Pick<BpeOptions, "normalize" | "preTokenizers" | "decoder" | "lengths">;
  /** The pattern that words are cut by, where it is the only step. */
  readonly pattern?: string;
  readonly normalizer: unknown;
  readonly pre_tokenizer: unknown;
  readonly post_processor: unknown;
  readonly decoder: unknown;
  readonly truncation: unknown;
  readonly padding: unknown;
}

export interface BpeTrainOptions {
  /** Bytes, learned tokens and special tokens together. */
  readonly vocabSize: number;
  /** Get the last ids. */
  readonly specialTokens?: readonly string[];
  /** Split pattern in Oniguruma's dialect; default GPT-2's. */
  readonly pattern?: string;
  /** Stop at pairs that occur less often; default 1. */
  readonly minFrequency?: number;
  readonly bosToken?: string | undefined;
  readonly eosToken?: string | undefined;
}

const BPE_OPTIONS: readonly (keyof BpeOptions)[] = [
  ...(["source", "vocab", "merges", "addedTokens", "normalize", "preTokenizers", "alphabet"] as const),
  ...(["byteFallback", "unkToken", "fuseUnk", "ignoreMerges", "template", "lengths", "decoder"] as const),
  ...(["bosToken", "eosToken", "written"] as const),
];
const TRAIN_OPTIONS: readonly (keyof BpeTrainOptions)[] = [
  ...(["vocabSize", "specialTokens", "pattern", "minFrequency", "bosToken", "eosToken"] as const),
];

const CACHE_LIMIT = 50_000;
const CACHED_LENGTH = 64;
/** A word is shorter than this, in symbols. */
const LONGEST_WORD = 2 ** 26;

/** Ids of pairs and of what they make. @throws TokenizerError for unknown tokens and pairs that are listed twice */
function mergeTable(source: string, vocabulary: Vocabulary, merges: BpeOptions["merges"]): MergeTable {
  const table = new MergeTable(vocabulary.size);
  merges.forEach(([left, right], rank) => {
    const [a, b, result] = [vocabulary.id(left), vocabulary.id(right), vocabulary.id(left + right)];
    const who = `merge ${rank} (${JSON.stringify(left)}, ${JSON.stringify(right)})`;
    if (a === undefined || b === undefined || result === undefined) {
      const missing = a === undefined ? left : b === undefined ? right : left + right;
      throw new TokenizerError(source, `${who}: ${JSON.stringify(missing)} is not a token`);
    }
    if (table.has(a, b)) throw new TokenizerError(source, `${who} is listed twice`);
    table.add(a, b, result);
  });
  return table;
}

/**
 * Byte-pair encoding: the characters of a word, or its bytes, merge to tokens.
 *
 * Sennrich et al. 2016 (arXiv:1508.07909), on bytes as in Radford et al. 2019 (GPT-2). Time is linear in the text's
 * length up to a logarithm in that of its longest word.
 */
export class BpeTokenizer implements Tokenizer {
  readonly options: BpeOptions;
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly #source: string;
  readonly #vocabulary: Vocabulary;
  readonly #merges: MergeTable;
  readonly #added: AddedTokens;
  readonly #addedById: Map<number, AddedToken>;
  readonly #steps: readonly PreTokenizer[];
  /** Words become byte symbols after the last step. */
  readonly #endsInBytes: boolean;
  readonly #unknown: number | undefined;
  readonly #cache: Map<string, number[]> = new Map<string, number[]>();

  /** @throws TokenizerError for ids of two tokens, missing bytes, and merges of or to unknown tokens. */
  constructor(options: BpeOptions) {
    const source = (this.#source = options.source ?? "BpeTokenizer");
    expectOptions(source, options, BPE_OPTIONS);
    this.options = options;
    const { vocab, merges, addedTokens = [], preTokenizers = [], alphabet = "bytes" } = options;
    this.#vocabulary = new Vocabulary(source, vocab, addedTokens);
    this.vocabSize = this.#vocabulary.size;
    this.#merges = mergeTable(source, this.#vocabulary, merges);
    this.#added = new AddedTokens(addedTokens, options.normalize);
    this.#addedById = new Map(addedTokens.map((token) => [token.id, token]));
    this.#endsInBytes =
      preTokenizers.at(-1)?.type === "bytes" ||
      (alphabet === "bytes" && !preTokenizers.some((step) => step.type === "bytes"));
    this.#steps = preTokenizers.at(-1)?.type === "bytes" ? preTokenizers.slice(0, -1) : preTokenizers;
    const named = (token: string | undefined): number | undefined =>
      token === undefined ? undefined : this.#vocabulary.id(token);
    this.#unknown = named(options.unkToken);
    if (options.unkToken !== undefined && this.#unknown === undefined)
      throw new TokenizerError(
        source,
        `the unknown token ${JSON.stringify(options.unkToken)} is not a token`,
      );
    const bytes = this.#endsInBytes || preTokenizers.some((step) => step.type === "bytes");
    BYTE_SYMBOLS.forEach((symbol, byte) => {
      if (!bytes || neverInUtf8(byte) || this.#unknown !== undefined) return;
      if (this.#vocabulary.id(symbol) === undefined)
        throw new UnsupportedStepError(
          source,
          `byte ${byte} (${JSON.stringify(symbol)}) is not a token; a byte-level vocabulary holds every byte of UTF-8`,
        );
    });
    this.bosTokenId = named(options.bosToken);
    this.eosTokenId = named(options.eosToken);
  }

  /** Learn a vocabulary. Deterministic; see `learnMerges` for the rule. @throws TokenizerError */
  static train(texts: Iterable<string>, options: BpeTrainOptions): BpeTokenizer {
    const who = "BpeTokenizer.train";
    expectOptions(who, options, TRAIN_OPTIONS);
    const { vocabSize, specialTokens = [], pattern = GPT2_PATTERN, minFrequency = 1 } = options;
    if (typeof texts !== "object" || (texts as unknown) === null || !(Symbol.iterator in texts))
      throw new TokenizerError(who, `the texts are ${show(texts)}; they must be a list of strings`);
    const special: unknown = specialTokens;
    if (!Array.isArray(special) || !special.every((t) => typeof t === "string" && t !== ""))
      throw new TokenizerError(who, `specialTokens is ${show(specialTokens)}; it must be a list of tokens`);
    if (new Set(specialTokens).size !== specialTokens.length)
      throw new TokenizerError(who, "specialTokens lists a token twice");
    if (typeof pattern !== "string")
      throw new TokenizerError(who, `pattern is ${show(pattern)}; it must be a string`);
    if (typeof minFrequency !== "number" || !(minFrequency >= 0))
      throw new TokenizerError(who, `minFrequency is ${show(minFrequency)}; it must be a number from 0 on`);
    const room = vocabSize - 256 - specialTokens.length;
    if (!Number.isInteger(vocabSize) || room < 0) {
      throw new TokenizerError(
        who,
        `vocabSize is ${show(vocabSize)}; it must be an integer of at least ${256 + specialTokens.length} (256 bytes and ${specialTokens.length} special tokens)`,
      );
    }
    const regex = compilePattern(who, pattern);
    const { tokens, merges } = learnMerges(checked(who, texts), regex, room, minFrequency);
    const first = tokens.length;
    const preTokenizers = splitBy(regex);
    return new BpeTokenizer({
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
      addedTokens: specialTokens.map((content, i) => ({ id: first + i, content, special: true })),
      preTokenizers,
      bosToken: options.bosToken,
      eosToken: options.eosToken,
      written: stepsOfPattern(pattern, preTokenizers),
    });
  }

  tokenToId(token: string): number | undefined {
    return this.#vocabulary.id(token);
  }

  idToToken(id: number): string | undefined {
    return this.#vocabulary.token(id);
  }

  encode(text: string, options?: EncodeOptions): number[] {
    const { addSpecialTokens, allowedSpecial } = encodeArguments(this.#source, text, options);
    const ids: number[] = [];
    this.#added.cut(text, allowedSpecial).forEach((piece, i) => {
      if (typeof piece === "number") ids.push(piece);
      else
        for (const word of preTokenize(piece, this.#steps, i === 0))
          for (const id of this.#encodeWord(word)) ids.push(id);
    });
    const { before = [], after = [] } = (addSpecialTokens ? this.options.template : undefined) ?? {};
    return fit(ids, { before: [...before], after: [...after] }, this.options.lengths ?? {});
  }

  #encodeWord(word: string): number[] {
    const cached = this.#cache.get(word);
    if (cached) return cached;
    const symbols = this.#endsInBytes ? byteSymbols(word) : word;
    if (symbols.length >= LONGEST_WORD)
      throw new TokenizerError(
        this.#source,
        `a word has ${symbols.length} symbols; at most ${LONGEST_WORD - 1} are taken`,
      );
    const whole = this.options.ignoreMerges === true ? this.#vocabulary.id(symbols) : undefined;
    const ids =
      whole !== undefined && !this.#addedById.has(whole)
        ? [whole]
        : applyMerges(this.#symbolIds(symbols), this.#merges);
    if (word.length <= CACHED_LENGTH) {
      if (this.#cache.size >= CACHE_LIMIT) this.#cache.clear();
      this.#cache.set(word, ids);
    }
    return ids;
  }

  /** What merges begin with. */
  #symbolIds(symbols: string): number[] {
    const out: number[] = [];
    let unknown = false;
    for (const symbol of symbols) {
      const id = this.#vocabulary.id(symbol);
      const found = id === undefined ? this.#fallback(symbol) : [id];
      if (found) {
        out.push(...found);
        unknown = false;
      } else if (this.#unknown !== undefined) {
        if (!unknown || this.options.fuseUnk !== true) out.push(this.#unknown);
        unknown = true;
      }
    }
    return out;
  }

  /** The byte tokens of a character, where the vocabulary has them all. */
  #fallback(symbol: string): number[] | undefined {
    if (this.options.byteFallback !== true) return undefined;
    const ids = Array.from(new TextEncoder().encode(symbol), (byte) =>
      this.#vocabulary.id(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
    );
    return ids.includes(undefined) ? undefined : (ids as number[]);
  }

  /** Tokens of ids, and whether each was added. */
  *#tokens(ids: readonly number[], skipSpecial: boolean): Generator<[token: string, added: boolean]> {
    for (const id of ids) {
      const token = this.#vocabulary.token(id);
      const added = this.#addedById.get(id);
      if (token === undefined || (skipSpecial && added?.special === true)) continue;
      yield [token, added !== undefined];
    }
  }

  /** The bytes that ids stand for. @throws TokenizerError for ids that are not integers from 0 on */
  decodeBytes(ids: Iterable<number>, options?: DecodeOptions): Uint8Array {
    if (this.options.decoder && !this.options.decoder.includes(byteLevelStep))
      return new TextEncoder().encode(this.decode(ids, options));
    const { skipSpecialTokens } = decodeArguments(this.#source, options);
    const out: number[] = [];
    for (const [token, added] of this.#tokens(expectIds(this.#source, "the ids", ids), skipSpecialTokens))
      for (const byte of tokenBytes(token, added)) out.push(byte);
    return Uint8Array.from(out);
  }

  decode(ids: Iterable<number>, options?: DecodeOptions): string {
    const { push, end } = this.#stream(options);
    const text = push(expectIds(this.#source, "the ids", ids));
    return text + end();
  }

  decoder(options?: DecodeOptions): StreamDecoder {
    const { push, end } = this.#stream(options);
    return { push: (...ids) => push(expectIds(this.#source, "the ids", ids)), end };
  }

  #stream(options?: DecodeOptions): { push: (ids: readonly number[]) => string; end: () => string } {
    const { skipSpecialTokens, after } = decodeArguments(this.#source, options);
    const chain = new DecodeChain(this.options.decoder ?? [byteLevelStep]);
    const push = (ids: readonly number[]): string => {
      let text = "";
      for (const [token, added] of this.#tokens(ids, skipSpecialTokens)) text += chain.push(token, added);
      return text;
    };
    push(after);
    return { push, end: () => chain.end() };
  }
}

/** Texts that are known to be strings. */
function* checked(who: string, texts: Iterable<unknown>): Generator<string> {
  for (const text of texts) {
    if (typeof text !== "string")
      throw new TokenizerError(who, `a text is ${show(text)}; the texts must be a list of strings`);
    yield text;
  }
}

/** The step that cuts a text by one pattern. */
export function splitBy(pattern: RegExp): readonly PreTokenizer[] {
  return [{ type: "split", pattern, behavior: "Isolated", invert: false }];
}

/** The steps of a byte-level tokenizer that splits by one pattern, as a file writes them. */
export function stepsOfPattern(pattern: string, preTokenizers: readonly PreTokenizer[]): WrittenSteps {
  const byteLevel = (use: boolean): object => ({
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: use,
  });
  const split = { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
  return {
    read: { preTokenizers },
    pattern,
    normalizer: null,
    pre_tokenizer:
      pattern === GPT2_PATTERN
        ? byteLevel(true)
        : { type: "Sequence", pretokenizers: [split, byteLevel(false)] },
    post_processor: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    truncation: null,
    padding: null,
  };
}
