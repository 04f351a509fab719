import { BYTE_SYMBOLS, SYMBOL_BYTES } from "./byte_symbols.js";
import { TokenizerError } from "./errors.js";
import { applyMerges, MergeTable } from "./merge.js";
import { compilePattern, GPT2_PATTERN, WORD } from "./pattern.js";
import { split, type SplitBehavior } from "./split.js";
import type { DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer } from "./tokenizer.js";
import { learnMerges } from "./train.js";

/** A token outside the merges, matched in the text as it stands. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  /** Also takes the white space before (after) it. */
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  /** Only where it is not part of a longer word. */
  readonly singleWord?: boolean;
  /** Matched after the normaliser has run. */
  readonly normalized?: boolean;
}

/** One step of cutting a text into words. */
export type PreTokenizer =
  | {
      readonly type: "split";
      readonly pattern: RegExp;
      readonly behavior: SplitBehavior;
      readonly invert: boolean;
    }
  | { readonly type: "prefixSpace" };

export interface BpeOptions {
  /** Names the tokenizer in errors. */
  readonly source?: string;
  /** Token of each id below the added tokens', in GPT-2's byte symbols. */
  readonly vocab: Readonly<Record<string, number>>;
  /** Pairs of tokens, the first merged first. */
  readonly merges: readonly (readonly [string, string])[];
  readonly addedTokens?: readonly AddedToken[];
  readonly normalize?: (text: string) => string;
  readonly preTokenizers?: readonly PreTokenizer[];
  /** A word that is a token is taken whole. */
  readonly ignoreMerges?: boolean;
  /** Special tokens before and after a text. */
  readonly template?: { readonly before: readonly number[]; readonly after: readonly number[] };
  readonly bosToken?: string | undefined;
  readonly eosToken?: string | undefined;
}

export interface BpeTrainOptions {
  /** Bytes, learned tokens and special tokens together. */
  readonly vocabSize: number;
  /** Get the last ids. */
  readonly specialTokens?: readonly string[];
  /** Split pattern; default GPT-2's. */
  readonly pattern?: string;
  /** Stop at pairs that occur less often; default 1. */
  readonly minFrequency?: number;
  readonly bosToken?: string;
  readonly eosToken?: string;
}

const escape = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
const isSpace = (char: string): boolean => /\p{White_Space}/u.test(char);
const isWord = (char: string): boolean => WORD.test(char);
/** The character that ends at (starts at) an index, or "" at the text's border. */
const before = (text: string, at: number): string =>
  /.$/su.exec(text.slice(Math.max(0, at - 2), at))?.[0] ?? "";
const after = (text: string, at: number): string => /^./su.exec(text.slice(at, at + 2))?.[0] ?? "";

const CACHE_LIMIT = 50_000;
const CACHED_LENGTH = 64;

/**
 * Byte-level BPE: any text is a sequence of bytes, and bytes merge to tokens; nothing is unknown.
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
  readonly #ids: Map<string, number> = new Map<string, number>();
  readonly #tokens: string[] = [];
  readonly #merges: MergeTable;
  readonly #byteIds: Int32Array = new Int32Array(256);
  readonly #added: Map<string, AddedToken>;
  readonly #addedById: Map<number, AddedToken>;
  readonly #cache: Map<string, number[]> = new Map<string, number[]>();
  readonly #matchers: Map<string, RegExp | undefined> = new Map<string, RegExp | undefined>();
  readonly #encoder: TextEncoder = new TextEncoder();

  /** @throws TokenizerError for ids with gaps or repeats, missing bytes, and merges of or to unknown tokens. */
  constructor(options: BpeOptions) {
    this.options = options;
    const source = (this.#source = options.source ?? "BpeTokenizer");
    const { vocab, merges, addedTokens = [] } = options;
    for (const [token, id] of Object.entries(vocab)) {
      if (!Number.isSafeInteger(id) || id < 0 || id > 2 ** 24)
        throw new TokenizerError(
          source,
          `token ${JSON.stringify(token)} has id ${String(id)}; ids are integers from 0 on`,
        );
      if (this.#tokens[id] !== undefined)
        throw new TokenizerError(
          source,
          `tokens ${JSON.stringify(this.#tokens[id])} and ${JSON.stringify(token)} have the same id ${id}`,
        );
      this.#tokens[id] = token;
      this.#ids.set(token, id);
    }
    this.#added = new Map();
    this.#addedById = new Map();
    for (const added of addedTokens) {
      const { id, content } = added;
      if (content === "") throw new TokenizerError(source, `added token ${id} is empty`);
      if (!Number.isSafeInteger(id) || id < 0 || id > 2 ** 24)
        throw new TokenizerError(
          source,
          `added token ${JSON.stringify(content)} has id ${String(id)}; ids are integers from 0 on`,
        );
      if (this.#tokens[id] !== undefined && this.#tokens[id] !== content) {
        throw new TokenizerError(
          source,
          `added token ${JSON.stringify(content)} has the id ${id} of ${JSON.stringify(this.#tokens[id])}`,
        );
      }
      this.#tokens[id] = content;
      this.#ids.set(content, id);
      this.#added.set(content, added);
      this.#addedById.set(id, added);
    }
    for (let id = 0; id < this.#tokens.length; id++) {
      if (this.#tokens[id] === undefined)
        throw new TokenizerError(
          source,
          `no token has the id ${id}; ids run without gaps to ${this.#tokens.length - 1}`,
        );
    }
    this.vocabSize = this.#tokens.length;
    BYTE_SYMBOLS.forEach((symbol, byte) => {
      const id = this.#ids.get(symbol);
      if (id === undefined)
        throw new TokenizerError(
          source,
          `byte ${byte} (${JSON.stringify(symbol)}) is no token; a byte-level vocabulary holds all 256`,
        );
      this.#byteIds[byte] = id;
    });
    this.#merges = new MergeTable(this.vocabSize);
    merges.forEach(([left, right], rank) => {
      const [a, b, result] = [this.#ids.get(left), this.#ids.get(right), this.#ids.get(left + right)];
      if (a === undefined || b === undefined || result === undefined) {
        const missing = a === undefined ? left : b === undefined ? right : left + right;
        throw new TokenizerError(
          source,
          `merge ${rank} (${JSON.stringify(left)}, ${JSON.stringify(right)}): ${JSON.stringify(missing)} is no token`,
        );
      }
      if (this.#merges.has(a, b))
        throw new TokenizerError(
          source,
          `merge ${rank} (${JSON.stringify(left)}, ${JSON.stringify(right)}) is listed twice`,
        );
      this.#merges.add(a, b, result);
    });
    const named = (token: string | undefined): number | undefined =>
      token === undefined ? undefined : this.#ids.get(token);
    this.bosTokenId = named(options.bosToken);
    this.eosTokenId = named(options.eosToken);
  }

  /** Learn a vocabulary. Deterministic; see `learnMerges` for the rule. */
  static train(texts: Iterable<string>, options: BpeTrainOptions): BpeTokenizer {
    const {
      vocabSize,
      specialTokens = [],
      pattern = GPT2_PATTERN,
      minFrequency = 1,
      bosToken,
      eosToken,
    } = options;
    const room = vocabSize - 256 - specialTokens.length;
    if (!Number.isInteger(vocabSize) || room < 0) {
      throw new TokenizerError(
        "BpeTokenizer.train",
        `vocabSize is ${vocabSize}; it must be an integer of at least ${256 + specialTokens.length} (256 bytes and ${specialTokens.length} special tokens)`,
      );
    }
    const regex = compilePattern("BpeTokenizer.train", pattern);
    const { tokens, merges } = learnMerges(texts, regex, room, minFrequency);
    const vocab: Record<string, number> = Object.fromEntries(tokens.map((token, id) => [token, id]));
    const first = tokens.length;
    return new BpeTokenizer({
      vocab,
      merges,
      addedTokens: specialTokens.map((content, i) => ({ id: first + i, content, special: true })),
      preTokenizers: [{ type: "split", pattern: regex, behavior: "Isolated", invert: false }],
      bosToken,
      eosToken,
    });
  }

  tokenToId(token: string): number | undefined {
    return this.#ids.get(token);
  }

  idToToken(id: number): string | undefined {
    return this.#tokens[id];
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const { addSpecialTokens = true, allowedSpecial = "all" } = options;
    const out: number[] = addSpecialTokens ? [...(this.options.template?.before ?? [])] : [];
    const { normalize } = this.options;
    // Tokens that are matched before the normaliser, then those after it, then words.
    for (const piece of this.#cut(text, false, allowedSpecial)) {
      if (typeof piece === "number") out.push(piece);
      else
        for (const inner of this.#cut(normalize ? normalize(piece) : piece, true, allowedSpecial)) {
          if (typeof inner === "number") out.push(inner);
          else this.#encodeWords(inner, out);
        }
    }
    if (addSpecialTokens) out.push(...(this.options.template?.after ?? []));
    return out;
  }

  /** Alternation of the added tokens of one kind, the longest first. */
  #matcher(normalized: boolean, allowed: "all" | "none" | readonly string[]): RegExp | undefined {
    const key = `${String(normalized)} ${typeof allowed === "string" ? allowed : JSON.stringify(allowed)}`;
    if (this.#matchers.has(key)) return this.#matchers.get(key);
    const tokens = [...this.#added.values()]
      .filter((t) => (t.normalized ?? false) === normalized)
      .filter(
        (t) => t.special !== true || allowed === "all" || (allowed !== "none" && allowed.includes(t.content)),
      )
      .sort((a, b) => b.content.length - a.content.length);
    const regex =
      tokens.length === 0 ? undefined : new RegExp(tokens.map((t) => escape(t.content)).join("|"), "gu");
    if (this.#matchers.size > 64) this.#matchers.clear();
    this.#matchers.set(key, regex);
    return regex;
  }

  /** A text in pieces: ids of the added tokens in it, and what lies between them. */
  #cut(text: string, normalized: boolean, allowed: "all" | "none" | readonly string[]): (string | number)[] {
    const regex = this.#matcher(normalized, allowed);
    if (!regex) return text === "" ? [] : [text];
    const out: (string | number)[] = [];
    let at = 0;
    for (const { 0: content, index } of text.matchAll(regex)) {
      const token = this.#added.get(content)!;
      let [start, end] = [index, index + content.length];
      if (start < at) continue;
      if (token.singleWord && (isWord(before(text, start)) || isWord(after(text, end)))) continue;
      if (token.lstrip) while (start > at && isSpace(text[start - 1]!)) start--;
      if (token.rstrip) while (end < text.length && isSpace(text[end]!)) end++;
      if (start > at) out.push(text.slice(at, start));
      out.push(token.id);
      at = end;
    }
    if (at < text.length) out.push(text.slice(at));
    return out;
  }

  #encodeWords(text: string, out: number[]): void {
    let words = [text];
    for (const step of this.options.preTokenizers ?? []) {
      words =
        step.type === "prefixSpace"
          ? words.map((w) => (w.startsWith(" ") ? w : ` ${w}`))
          : words.flatMap((w) => split(w, step.pattern, step.behavior, step.invert));
    }
    for (const word of words) for (const id of this.#encodeWord(word)) out.push(id);
  }

  #encodeWord(word: string): number[] {
    const cached = this.#cache.get(word);
    if (cached) return cached;
    const bytes = this.#encoder.encode(word);
    if (bytes.length >= 2 ** 26)
      throw new TokenizerError(
        this.#source,
        `a word has ${bytes.length} bytes; at most ${2 ** 26 - 1} are taken`,
      );
    let ids: number[] | undefined;
    if (this.options.ignoreMerges === true) {
      let symbols = "";
      for (const byte of bytes) symbols += BYTE_SYMBOLS[byte]!;
      const whole = this.#ids.get(symbols);
      if (whole !== undefined && !this.#addedById.has(whole)) ids = [whole];
    }
    ids ??= applyMerges(
      Array.from(bytes, (byte) => this.#byteIds[byte]!),
      this.#merges,
    );
    if (word.length <= CACHED_LENGTH) {
      if (this.#cache.size >= CACHE_LIMIT) this.#cache.clear();
      this.#cache.set(word, ids);
    }
    return ids;
  }

  /** The bytes that ids stand for. @throws TokenizerError for an id that is no token's. */
  decodeBytes(ids: Iterable<number>, options: DecodeOptions = {}): Uint8Array {
    const out: number[] = [];
    for (const id of ids) {
      const token = this.#tokens[id];
      if (token === undefined)
        throw new TokenizerError(
          this.#source,
          `id ${String(id)} is no token; ids run from 0 to ${this.vocabSize - 1}`,
        );
      const added = this.#addedById.get(id);
      if (added) {
        if (options.skipSpecialTokens !== true || added.special !== true)
          for (const byte of this.#encoder.encode(token)) out.push(byte);
        continue;
      }
      for (const char of token) {
        const byte = SYMBOL_BYTES.get(char);
        if (byte !== undefined) out.push(byte);
        else for (const b of this.#encoder.encode(char)) out.push(b);
      }
    }
    return Uint8Array.from(out);
  }

  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.decodeBytes(ids, options));
  }

  decoder(options: DecodeOptions = {}): StreamDecoder {
    const text = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (...ids) => text.decode(this.decodeBytes(ids, options), { stream: true }),
      end: () => text.decode(),
    };
  }
}
