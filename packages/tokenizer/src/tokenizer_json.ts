import { BpeTokenizer, type AddedToken } from "./bpe.js";
import { isRecord, JsonReader, show } from "./json_reader.js";
import { MAX_DEPTH, normalizer, preTokenizers, template } from "./tokenizer_steps.js";
import { parseMerge, parseVocab } from "./vocabulary.js";

/** True for a tokenizer.json of a byte-level BPE model: the kind that this package encodes itself. */
export function isByteLevelBpe(value: unknown): boolean {
  if (!isRecord(value) || !isRecord(value["model"])) return false;
  const { model } = value;
  if (model["type"] !== undefined && model["type"] !== "BPE") return false;
  const holds = (step: unknown, depth: number): boolean => {
    if (!isRecord(step) || depth > MAX_DEPTH) return false;
    if (step["type"] === "ByteLevel") return true;
    const inner = step["pretokenizers"] ?? step["decoders"];
    return Array.isArray(inner) && inner.some((s) => holds(s, depth + 1));
  };
  return holds(value["pre_tokenizer"], 0) || holds(value["decoder"], 0);
}

export interface TokenizerJsonOptions {
  /** Names the file in errors; default "tokenizer.json". */
  readonly file?: string;
  /** Content of tokenizer_config.json, which names the beginning and end of a text. */
  readonly config?: unknown;
}

/** The content of a token in tokenizer_config.json: a string or {content}. */
export function namedToken(config: unknown, key: string): string | undefined {
  if (!isRecord(config)) return undefined;
  const value = config[key];
  if (typeof value === "string") return value;
  return isRecord(value) && typeof value["content"] === "string" ? value["content"] : undefined;
}

/**
 * Read a parsed `tokenizer.json` of a byte-level BPE model (GPT-2, Llama 3, Qwen 2 and the like).
 *
 * @throws TokenizerError naming the file, the field and the reason.
 */
export function fromTokenizerJson(value: unknown, options: TokenizerJsonOptions = {}): BpeTokenizer {
  const r = new JsonReader(options.file ?? "tokenizer.json");
  const root = r.object("the file", value);
  const model = r.object("model", root["model"]);
  if (model["type"] !== undefined && model["type"] !== "BPE")
    r.fail("model.type", `is ${show(model["type"])}; it must be "BPE"`);
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if ((model[key] ?? "") !== "") r.fail(`model.${key}`, `is ${show(model[key])}; byte-level BPE has none`);
  }
  const vocab = parseVocab(r, "model.vocab", model["vocab"]);
  const merges = r
    .array("model.merges", model["merges"])
    .map((m, i) => parseMerge(r, `model.merges[${i}]`, m));
  const addedTokens = r.array("added_tokens", root["added_tokens"] ?? []).map((item, i): AddedToken => {
    const where = `added_tokens[${i}]`;
    const entry = r.object(where, item);
    if (typeof entry["id"] !== "number")
      r.fail(`${where}.id`, `is ${show(entry["id"])}; it must be an integer`);
    return {
      id: entry["id"] as number,
      content: r.string(`${where}.content`, entry["content"]),
      special: r.flag(`${where}.special`, entry["special"], false),
      lstrip: r.flag(`${where}.lstrip`, entry["lstrip"], false),
      rstrip: r.flag(`${where}.rstrip`, entry["rstrip"], false),
      singleWord: r.flag(`${where}.single_word`, entry["single_word"], false),
      normalized: r.flag(`${where}.normalized`, entry["normalized"], false),
    };
  });
  const ids = new Map([...Object.entries(vocab), ...addedTokens.map((t) => [t.content, t.id] as const)]);
  const normalize = normalizer(r, "normalizer", root["normalizer"]);
  const { before, after } = template(r, "post_processor", root["post_processor"], (token) => ids.get(token));
  const first = addedTokens.find((t) => t.id === before[0])?.content;
  return new BpeTokenizer({
    source: r.file,
    vocab,
    merges,
    addedTokens,
    ...(normalize ? { normalize } : {}),
    preTokenizers: preTokenizers(r, "pre_tokenizer", root["pre_tokenizer"]),
    ignoreMerges: r.flag("model.ignore_merges", model["ignore_merges"], false),
    template: { before, after },
    bosToken: namedToken(options.config, "bos_token") ?? first,
    eosToken: namedToken(options.config, "eos_token"),
  });
}
