export {
  BpeTokenizer,
  type AddedToken,
  type BpeOptions,
  type BpeTrainOptions,
  type PreTokenizer,
} from "./bpe.js";
export { TokenizerError } from "./errors.js";
export { loadTokenizer, type ReadText } from "./load.js";
export { otherTokenizer } from "./other.js";
export { GPT2_PATTERN } from "./pattern.js";
export { fromGpt2Files } from "./gpt2_files.js";
export { fromTokenizerJson, isByteLevelBpe, type TokenizerJsonOptions } from "./tokenizer_json.js";
export { toTokenizerJson } from "./to_tokenizer_json.js";
export type { DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer } from "./tokenizer.js";
