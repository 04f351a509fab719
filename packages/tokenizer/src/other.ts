import { TokenizerError } from "./errors.js";
import { namedToken } from "./tokenizer_json.js";
import type { DecodeOptions, Tokenizer } from "./tokenizer.js";

/** What is used of `@huggingface/tokenizers`. */
type LibraryClass = new (
  tokenizer: object,
  config: object,
) => {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(
    ids: number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean },
  ): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
};

/**
 * A tokenizer of another family (SentencePiece-style BPE with byte fallback, Unigram, WordPiece) from its parsed
 * `tokenizer.json`, through `@huggingface/tokenizers`, which is loaded when it is needed.
 *
 * @throws TokenizerError
 */
export async function otherTokenizer(
  json: unknown,
  config: unknown,
  file = "tokenizer.json",
): Promise<Tokenizer> {
  // The library's declarations name its files without extensions, which strict resolution does not follow.
  const { Tokenizer: Library } = (await import("@huggingface/tokenizers")) as unknown as {
    Tokenizer: LibraryClass;
  };
  let inner: InstanceType<LibraryClass>;
  let vocabSize: number;
  try {
    inner = new Library(json as object, config ?? {});
    vocabSize = sizeOf(json);
  } catch (cause) {
    throw new TokenizerError(
      file,
      `cannot be read (${cause instanceof Error ? cause.message : String(cause)})`,
      { cause },
    );
  }
  const id = (key: string): number | undefined => {
    const token = namedToken(config, key);
    return token === undefined ? undefined : inner.token_to_id(token);
  };
  const decode = (ids: readonly number[], options: DecodeOptions = {}): string => {
    const bad = ids.find((i) => inner.id_to_token(i) === undefined);
    if (bad !== undefined) throw new TokenizerError(file, `id ${bad} is no token`);
    return ids.length === 0
      ? ""
      : inner.decode([...ids], {
          skip_special_tokens: options.skipSpecialTokens ?? false,
          clean_up_tokenization_spaces: false,
        });
  };
  return {
    vocabSize,
    bosTokenId: id("bos_token"),
    eosTokenId: id("eos_token"),
    encode: (text, options = {}) =>
      inner.encode(text, { add_special_tokens: options.addSpecialTokens ?? true }).ids,
    decode: (ids, options) => decode([...ids], options),
    decoder: (options) => {
      // Spaces and bytes depend on what came before: decode all, and give what is new and complete.
      const all: number[] = [];
      let given = 0;
      const rest = (final: boolean): string => {
        const text = decode(all, options);
        const end = final ? text.length : text.length - (/\ufffd+$/.exec(text)?.[0].length ?? 0);
        const out = text.slice(given, end);
        given = Math.max(given, end);
        return out;
      };
      return {
        push: (...ids) => {
          all.push(...ids);
          return rest(false);
        },
        end: () => rest(true),
      };
    },
    tokenToId: (token) => inner.token_to_id(token),
    idToToken: (i) => inner.id_to_token(i),
  };
}

function sizeOf(json: unknown): number {
  const root = json as { model?: { vocab?: unknown }; added_tokens?: { id: number }[] };
  const vocab = root.model?.vocab;
  const own = Array.isArray(vocab) ? vocab.length : Object.keys(vocab ?? {}).length;
  return Math.max(own, ...(root.added_tokens ?? []).map((t) => t.id + 1));
}
