/** What every tokenizer of this package does. */
export interface Tokenizer {
  /** Number of ids, added tokens included. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  /** Ids of a text; the template's special tokens are added unless switched off. */
  encode(text: string, options?: EncodeOptions): number[];
  /** Text of ids; bytes that are no UTF-8 become U+FFFD. */
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
  readonly allowedSpecial?: "all" | "none" | readonly string[];
}

export interface DecodeOptions {
  /** Leave special tokens out; default false. */
  readonly skipSpecialTokens?: boolean;
}

export interface StreamDecoder {
  /** The text that the ids complete. */
  push(...ids: number[]): string;
  /** The rest at the end; what is incomplete becomes U+FFFD. */
  end(): string;
}
