import type { AddedToken } from "../steps/added_tokens.js";
import { expectIds, expectOptions, expectText } from "../arguments.js";
import { TokenizerError, UnsupportedStepError } from "../errors.js";
import { isRecord, JsonReader, type Json } from "../json_reader.js";
import { fit, lengths, type LengthOptions } from "../steps/lengths.js";
import { normalizer } from "../steps/normalizer.js";
import { isPlain } from "../pattern/plain.js";
import { preTokenize, preTokenizers } from "../steps/pre_tokenizer.js";
import { template } from "../steps/template.js";
import { namedToken, parseAddedTokens, refuseDropout } from "./tokenizer_json.js";
import { decodeArguments, encodeArguments } from "../tokenizer.js";
import type { AllowedSpecial, StreamDecoder, Tokenizer } from "../tokenizer.js";

/** What is used of `@huggingface/tokenizers`. */
interface Library {
  normalizer: ((text: string) => string) | null;
  pre_tokenizer: ((text: string, options?: { section_index?: number }) => string[]) | null;
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(
    ids: number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean },
  ): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}
type LibraryClass = new (tokenizer: object, config: object) => Library;

/** Undefined where a step is not known here. */
function ifKnown<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof UnsupportedStepError) return undefined;
    throw error;
  }
}

/** Every pattern below a value is one that JavaScript reads as the format's dialect does. */
function expectPlainPatterns(r: JsonReader, where: string, value: unknown): void {
  if (!Array.isArray(value) && !isRecord(value)) return;
  for (const [key, item] of Object.entries(value)) {
    if (key === "Regex" && typeof item === "string" && !isPlain(item))
      r.fail(
        `${where}.Regex`,
        `is ${JSON.stringify(item)}; beside a step that goes through the library only plain patterns are taken`,
      );
    expectPlainPatterns(r, `${where}.${key}`, item);
  }
}

/** Words of the vocabulary that nothing may be encoded to get another name, which no text holds. */
function withoutTokens(json: Json, names: ReadonlySet<string>): Json {
  const rename = (token: unknown): unknown =>
    typeof token === "string" && names.has(token) ? `\ufdd0${token}` : token;
  const model = json["model"] as Json;
  const vocab = model["vocab"];
  return {
    ...json,
    added_tokens: (json["added_tokens"] as readonly Json[]).filter((t) => !names.has(t["content"] as string)),
    model: {
      ...model,
      vocab: Array.isArray(vocab)
        ? vocab.map((entry: unknown) =>
            Array.isArray(entry) ? [rename(entry[0]), ...(entry.slice(1) as unknown[])] : entry,
          )
        : Object.fromEntries(
            Object.entries((vocab ?? {}) as Json).map(([token, id]) => [rename(token) as string, id]),
          ),
    },
  };
}

/** A file of another family, read by the library, with the steps that are known here done here. */
class OtherFile {
  readonly added: readonly AddedToken[];
  readonly main: Library;
  readonly #json: Json;
  readonly #r: JsonReader;
  readonly #make: (json: Json) => Library;
  readonly #restricted: Map<string, Library> = new Map<string, Library>();

  constructor(r: JsonReader, value: unknown, make: (json: Json) => Library) {
    const json = r.object("the file", value);
    this.#r = r;
    this.#json = { ...json, added_tokens: json["added_tokens"] ?? [] };
    this.added = parseAddedTokens(r, json["added_tokens"]);
    refuseDropout(r, r.object("model", json["model"]));
    expectPlainPatterns(r, "decoder", json["decoder"]);
    this.#make = make;
    this.main = this.#library(this.#json);
  }

  /** The library with the steps that are known here in the place of its own. */
  #library(json: Json): Library {
    const r = this.#r;
    const library = this.#make({ ...json, added_tokens: json["added_tokens"] });
    if ((json["normalizer"] ?? null) !== null) {
      const known = ifKnown(() => normalizer(r, "normalizer", json["normalizer"]));
      if (known) library.normalizer = known;
      else expectPlainPatterns(r, "normalizer", json["normalizer"]);
    }
    if ((json["pre_tokenizer"] ?? null) !== null) {
      const steps = ifKnown(() => preTokenizers(r, "pre_tokenizer", json["pre_tokenizer"]));
      if (steps)
        library.pre_tokenizer = (text, options) => preTokenize(text, steps, options?.section_index === 0);
      else expectPlainPatterns(r, "pre_tokenizer", json["pre_tokenizer"]);
    }
    return library;
  }

  /** The library for texts that may hold some of the special tokens. */
  allowing(allowed: AllowedSpecial): Library {
    if (allowed === "all") return this.main;
    const unknown = (this.#json["model"] as Json)["unk_token"];
    const names = this.added
      .filter((t) => t.special === true && t.content !== unknown)
      .filter((t) => allowed === "none" || !allowed.includes(t.content))
      .map((t) => t.content);
    if (names.length === 0) return this.main;
    const key = JSON.stringify(names);
    let library = this.#restricted.get(key);
    if (!library) {
      library = this.#library(withoutTokens(this.#json, new Set(names)));
      this.#restricted.set(key, library);
    }
    return library;
  }
}

/** Tokens before those of a piece that decide how it begins; and tokens that may hold one character back. */
const CONTEXT = 8;

/**
 * A tokenizer of another family (Unigram, WordPiece, and BPE with steps that this package does not do) from its parsed
 * `tokenizer.json`, through `@huggingface/tokenizers`, which is loaded when it is needed.
 *
 * @throws TokenizerError
 */
export async function otherTokenizer(
  json: unknown,
  config: unknown,
  file = "tokenizer.json",
  options: LengthOptions = {},
): Promise<Tokenizer> {
  expectText("otherTokenizer", "file", file);
  expectOptions("otherTokenizer", options, ["truncation", "padding"]);
  // The library's declarations name its files without extensions, which strict resolution does not follow.
  const { Tokenizer: Made } = (await import("@huggingface/tokenizers")) as unknown as {
    Tokenizer: LibraryClass;
  };
  const r = new JsonReader(file);
  let source: OtherFile;
  let vocabSize: number;
  try {
    source = new OtherFile(r, json, (root) => new Made(root, config ?? {}));
    vocabSize = sizeOf(json);
  } catch (cause) {
    if (TokenizerError.isInstance(cause)) throw cause;
    throw new TokenizerError(
      file,
      `cannot be read (${cause instanceof Error ? cause.message : String(cause)})`,
      { cause },
    );
  }
  const { main } = source;
  const root = json as Json;
  const length = lengths(r, root, options);
  const around = ifKnown(() =>
    template(r, "post_processor", root["post_processor"], (token) => main.token_to_id(token)),
  );
  if (!around && (length.truncation || length.padding))
    throw new TokenizerError(file, "post_processor is not known here, and truncation or padding needs it");
  const id = (key: string): number | undefined => {
    const token = namedToken(config, key);
    return token === undefined ? undefined : main.token_to_id(token);
  };
  const special = new Set(source.added.filter((t) => t.special === true).map((t) => t.id));
  const text = (ids: readonly number[]): string =>
    ids.length === 0
      ? ""
      : main.decode([...ids], { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  /** Ids that give text. */
  const shown =
    (skipSpecialTokens: boolean) =>
    (ids: readonly number[]): number[] =>
      ids.filter((i) => main.id_to_token(i) !== undefined && !(skipSpecialTokens && special.has(i)));
  return {
    vocabSize,
    bosTokenId: id("bos_token"),
    eosTokenId: id("eos_token"),
    encode: (value, given) => {
      const { addSpecialTokens, allowedSpecial } = encodeArguments(file, value, given);
      const library = source.allowing(allowedSpecial);
      if (!around) return library.encode(value, { add_special_tokens: addSpecialTokens }).ids;
      const { ids } = library.encode(value, { add_special_tokens: false });
      return fit(ids, addSpecialTokens ? around : { before: [], after: [] }, length);
    },
    decode: (ids, given) => {
      const { after, skipSpecialTokens } = decodeArguments(file, given);
      const show = shown(skipSpecialTokens);
      const known = show(after).slice(-CONTEXT);
      return text([...known, ...show(expectIds(file, "the ids", ids))]).slice(text(known).length);
    },
    decoder: (given) => {
      const { after, skipSpecialTokens } = decodeArguments(file, given);
      return windowed(text, shown(skipSpecialTokens), after);
    },
    tokenToId: (token) => main.token_to_id(token),
    idToToken: (i) => main.id_to_token(i),
  };
}

/**
 * A stream that decodes a few tokens at a time: spaces and bytes depend on the tokens just before, and on no others, so
 * that each token costs the same however long the text is.
 */
function windowed(
  text: (ids: readonly number[]) => string,
  shown: (ids: readonly number[]) => number[],
  after: readonly number[],
): StreamDecoder {
  let known = shown(after).slice(-CONTEXT);
  let fresh: number[] = [];
  const given = (final: boolean): string => {
    const whole = text([...known, ...fresh]);
    const before = text(known);
    const held = whole.endsWith("\ufffd") && !final && fresh.length < CONTEXT;
    if (held || whole.length <= before.length) return "";
    known = [...known, ...fresh].slice(-CONTEXT);
    fresh = [];
    return whole.slice(before.length);
  };
  return {
    push: (...ids) => {
      let out = "";
      for (const one of shown(expectIds("push", "the ids", ids))) {
        fresh.push(one);
        out += given(false);
      }
      return out;
    },
    end: () => given(true),
  };
}

function sizeOf(json: unknown): number {
  const root = json as { model?: { vocab?: unknown }; added_tokens?: { id: number }[] };
  const vocab = root.model?.vocab;
  let size = Array.isArray(vocab) ? vocab.length : 0;
  if (!Array.isArray(vocab))
    for (const id of Object.values((vocab ?? {}) as Json)) size = Math.max(size, Number(id) + 1);
  for (const { id } of root.added_tokens ?? []) size = Math.max(size, id + 1);
  return size;
}
