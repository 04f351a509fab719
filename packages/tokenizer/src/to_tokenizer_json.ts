import type { BpeTokenizer } from "./bpe.js";
import { GPT2_PATTERN } from "./pattern.js";

/** The `tokenizer.json` of a tokenizer that splits by one pattern (such as a trained one). */
export function toTokenizerJson(
  tokenizer: BpeTokenizer,
  pattern: string = GPT2_PATTERN,
): Record<string, unknown> {
  const { vocab, merges, addedTokens = [], ignoreMerges = false, template: around } = tokenizer.options;
  const byteLevel = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: pattern === GPT2_PATTERN,
  };
  const name = (id: number): string => tokenizer.idToToken(id)!;
  const item = (id: number): unknown => ({ SpecialToken: { id: name(id), type_id: 0 } });
  const used = [...(around?.before ?? []), ...(around?.after ?? [])];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens.map((t) => ({
      id: t.id,
      content: t.content,
      single_word: t.singleWord ?? false,
      lstrip: t.lstrip ?? false,
      rstrip: t.rstrip ?? false,
      normalized: t.normalized ?? false,
      special: t.special ?? false,
    })),
    normalizer: null,
    pre_tokenizer:
      pattern === GPT2_PATTERN
        ? byteLevel
        : {
            type: "Sequence",
            pretokenizers: [
              { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false },
              byteLevel,
            ],
          },
    post_processor:
      used.length === 0
        ? { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }
        : {
            type: "TemplateProcessing",
            single: [
              ...(around?.before ?? []).map(item),
              { Sequence: { id: "A", type_id: 0 } },
              ...(around?.after ?? []).map(item),
            ],
            pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
            special_tokens: Object.fromEntries(
              used.map((id) => [name(id), { id: name(id), ids: [id], tokens: [name(id)] }]),
            ),
          },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
      vocab,
      merges: merges.map(([a, b]) => `${a} ${b}`),
    },
  };
}
