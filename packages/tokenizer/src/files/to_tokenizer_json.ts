import { BpeTokenizer } from "../bpe/bpe.js";
import { TokenizerError } from "../errors.js";

/**
 * The `tokenizer.json` of a tokenizer: of one that was read its file's steps, of one that was trained its pattern's.
 *
 * @throws TokenizerError for a tokenizer made of functions, which a file cannot hold
 */
export function toTokenizerJson(tokenizer: BpeTokenizer, pattern?: string): Record<string, unknown> {
  const who = "toTokenizerJson";
  if (!(tokenizer instanceof BpeTokenizer)) throw new TokenizerError(who, "takes a BpeTokenizer");
  const { vocab, merges, addedTokens = [], template, written, unkToken } = tokenizer.options;
  const { options } = tokenizer;
  const steps = ["normalize", "preTokenizers", "decoder", "lengths"] as const;
  const other = written ? steps.filter((step) => options[step] !== written.read[step]) : steps;
  if (!written || other.length > 0)
    throw new TokenizerError(
      who,
      `${other.join(", ")} of the tokenizer were not read from a file, and a file cannot hold functions; write a tokenizer that was read or trained`,
    );
  if (pattern !== undefined && pattern !== written.pattern)
    throw new TokenizerError(
      who,
      `the pattern is ${JSON.stringify(pattern)}; the tokenizer splits ${written.pattern === undefined ? "by the steps of its file" : `by ${JSON.stringify(written.pattern)}`}`,
    );
  const name = (id: number): string => tokenizer.idToToken(id)!;
  const item = (id: number): unknown => ({ SpecialToken: { id: name(id), type_id: 0 } });
  const { before = [], after = [] } = template ?? {};
  const used = [...before, ...after];
  return {
    version: "1.0",
    truncation: written.truncation,
    padding: written.padding,
    added_tokens: addedTokens.map((t) => ({
      id: t.id,
      content: t.content,
      single_word: t.singleWord ?? false,
      lstrip: t.lstrip ?? false,
      rstrip: t.rstrip ?? false,
      normalized: t.normalized ?? false,
      special: t.special ?? false,
    })),
    normalizer: written.normalizer,
    pre_tokenizer: written.pre_tokenizer,
    post_processor:
      used.length === 0
        ? written.post_processor
        : {
            type: "TemplateProcessing",
            single: [...before.map(item), { Sequence: { id: "A", type_id: 0 } }, ...after.map(item)],
            pair: [
              ...before.map(item),
              { Sequence: { id: "A", type_id: 0 } },
              { Sequence: { id: "B", type_id: 1 } },
              ...after.map(item),
            ],
            special_tokens: Object.fromEntries(
              used.map((id) => [name(id), { id: name(id), ids: [id], tokens: [name(id)] }]),
            ),
          },
    decoder: written.decoder,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unkToken ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: tokenizer.options.fuseUnk ?? false,
      byte_fallback: tokenizer.options.byteFallback ?? false,
      ignore_merges: tokenizer.options.ignoreMerges ?? false,
      vocab,
      merges: merges.some((pair) => pair.join("").includes(" "))
        ? merges
        : merges.map((pair) => pair.join(" ")),
    },
  };
}
