import { expectFlag, expectIds, expectOptions, expectText, show } from "./arguments.js";
import { TokenizerError } from "./errors.js";

/** What every tokenizer of this package does. */
export interface Tokenizer {
  /** The greatest id, added tokens included, and one: some ids below it may have no token. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  /**
   * Ids of a text; the template's special tokens are added unless switched off.
   *
   * @throws TokenizerError for a text that is not a string and for unknown options
   */
  encode(text: string, options?: EncodeOptions): number[];
  /**
   * Text of ids. Bytes that are not UTF-8 become U+FFFD, and an id that no token has gives nothing: the weights of many
   * models have more rows than there are tokens.
   *
   * @throws TokenizerError for ids that are not integers from 0 on and for unknown options
   */
  decode(ids: Iterable<number>, options?: DecodeOptions): string;
  /** A decoder for ids that come one by one: holds back characters that are not complete. */
  decoder(options?: DecodeOptions): StreamDecoder;
  tokenToId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
}

export interface EncodeOptions {
  /** Add the tokens of the template (such as a beginning of text); default true. */
  readonly addSpecialTokens?: boolean;
  /** Special tokens that the text may contain: all (default), none, or the listed ones. */
  readonly allowedSpecial?: AllowedSpecial;
}

export type AllowedSpecial = "all" | "none" | readonly string[];

export interface DecodeOptions {
  /** Leave special tokens out; default false. */
  readonly skipSpecialTokens?: boolean;
  /**
   * The ids that come before, such as a prompt's: the text is what the ids add to theirs. Some families write the space
   * before a word only where something stands before it. Default: none, the ids are a text's first.
   */
  readonly after?: Iterable<number>;
}

export interface StreamDecoder {
  /** The text that the ids complete. */
  push(...ids: number[]): string;
  /** The rest at the end; what is incomplete becomes U+FFFD. */
  end(): string;
}

/** Check the arguments of `encode` and fill in what is absent. */
export function encodeArguments(
  who: string,
  text: unknown,
  options: EncodeOptions = {},
): Required<EncodeOptions> {
  expectText(who, "the text", text);
  expectOptions(who, options, ["addSpecialTokens", "allowedSpecial"]);
  const { addSpecialTokens = true, allowedSpecial = "all" } = options;
  expectFlag(who, "addSpecialTokens", addSpecialTokens);
  const listed = Array.isArray(allowedSpecial) && allowedSpecial.every((token) => typeof token === "string");
  if (allowedSpecial !== "all" && allowedSpecial !== "none" && !listed)
    throw new TokenizerError(
      who,
      `allowedSpecial is ${show(allowedSpecial)}; it must be "all", "none" or a list of tokens`,
    );
  return { addSpecialTokens, allowedSpecial };
}

/** Check the options of decoding and fill in what is absent. */
export function decodeArguments(
  who: string,
  options: DecodeOptions = {},
): { skipSpecialTokens: boolean; after: number[] } {
  expectOptions(who, options, ["skipSpecialTokens", "after"]);
  const { skipSpecialTokens = false, after = [] } = options;
  expectFlag(who, "skipSpecialTokens", skipSpecialTokens);
  return { skipSpecialTokens, after: expectIds(who, "the ids of after", after) };
}
