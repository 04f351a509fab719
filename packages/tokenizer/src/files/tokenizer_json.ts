import type { AddedToken } from "../steps/added_tokens.js";
import { expectOptions, show } from "../arguments.js";
import { BpeTokenizer } from "../bpe/bpe.js";
import { byteLevelStep, decoderSteps } from "../steps/decoder_steps.js";
import { UnsupportedStepError } from "../errors.js";
import { isRecord, JsonReader, type Json } from "../json_reader.js";
import { lengths, type LengthOptions } from "../steps/lengths.js";
import { MAX_DEPTH, normalizer } from "../steps/normalizer.js";
import { preTokenizers } from "../steps/pre_tokenizer.js";
import { template } from "../steps/template.js";
import { parseMerge, parseVocab } from "../bpe/vocabulary.js";

/** True for a tokenizer.json of a byte-level BPE model. */
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

export interface TokenizerJsonOptions extends LengthOptions {
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

/** Options of reading a file, for the check of unknown ones. */
export const READ_OPTIONS: readonly (keyof TokenizerJsonOptions)[] = [
  "file",
  "config",
  "truncation",
  "padding",
];

/**
 * Encoding with dropout is random, a means of training (Provilkov et al. 2020, arXiv:1910.13267); a file that asks for
 * it is refused, and does not go unheard.
 */
export function refuseDropout(r: JsonReader, model: Json): void {
  const dropout = model["dropout"] ?? 0;
  if (dropout !== 0)
    r.fail(
      "model.dropout",
      `is ${show(dropout)}, which makes encoding random and is meant for training; set it to null`,
    );
}

/** The added tokens of a file. */
export function parseAddedTokens(r: JsonReader, value: unknown): AddedToken[] {
  return r.array("added_tokens", value ?? []).map((item, i): AddedToken => {
    const where = `added_tokens[${i}]`;
    const entry = r.object(where, item);
    if (typeof entry["id"] !== "number")
      r.fail(`${where}.id`, `is ${show(entry["id"])}; it must be an integer`);
    return {
      id: entry["id"],
      content: r.string(`${where}.content`, entry["content"]),
      special: r.flag(`${where}.special`, entry["special"], false),
      lstrip: r.flag(`${where}.lstrip`, entry["lstrip"], false),
      rstrip: r.flag(`${where}.rstrip`, entry["rstrip"], false),
      singleWord: r.flag(`${where}.single_word`, entry["single_word"], false),
      normalized: r.flag(`${where}.normalized`, entry["normalized"], false),
    };
  });
}

/**
 * Read a parsed `tokenizer.json` of a BPE model: byte-level (GPT-2, Llama 3, Qwen 2 and the like) or of characters
 * with byte fallback (Llama 2, Mistral, Gemma).
 *
 * @throws TokenizerError naming the file, the field and the reason.
 */
export function fromTokenizerJson(value: unknown, options: TokenizerJsonOptions = {}): BpeTokenizer {
  expectOptions("fromTokenizerJson", options, READ_OPTIONS);
  const r = new JsonReader(options.file ?? "tokenizer.json");
  const root = r.object("the file", value);
  const model = r.object("model", root["model"]);
  if (model["type"] !== undefined && model["type"] !== "BPE")
    r.fail("model.type", `is ${show(model["type"])}; it must be "BPE"`);
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if ((model[key] ?? "") !== "")
      throw new UnsupportedStepError(r.file, `model.${key} is ${show(model[key])}; it is not supported here`);
  }
  refuseDropout(r, model);
  const vocab = parseVocab(r, "model.vocab", model["vocab"]);
  const merges = r
    .array("model.merges", model["merges"])
    .map((m, i) => parseMerge(r, `model.merges[${i}]`, m));
  const addedTokens = parseAddedTokens(r, root["added_tokens"]);
  const ids = new Map([...Object.entries(vocab), ...addedTokens.map((t) => [t.content, t.id] as const)]);
  const around = template(r, "post_processor", root["post_processor"], (token) => ids.get(token));
  const first = addedTokens.find((t) => t.id === around.before[0])?.content;
  const normalize = normalizer(r, "normalizer", root["normalizer"]);
  const decoder =
    decoderSteps(r, "decoder", root["decoder"]) ?? (isByteLevelBpe(value) ? [byteLevelStep] : undefined);
  if (!decoder) throw new UnsupportedStepError(r.file, "decoder is absent, which is not supported here");
  const read = {
    ...(normalize ? { normalize } : {}),
    preTokenizers: preTokenizers(r, "pre_tokenizer", root["pre_tokenizer"]),
    decoder,
    lengths: lengths(r, root, options),
  };
  const unk = model["unk_token"] ?? undefined;
  return new BpeTokenizer({
    source: r.file,
    vocab,
    merges,
    addedTokens,
    ...read,
    alphabet: "characters",
    byteFallback: r.flag("model.byte_fallback", model["byte_fallback"], false),
    unkToken: unk === undefined ? undefined : r.string("model.unk_token", unk),
    fuseUnk: r.flag("model.fuse_unk", model["fuse_unk"], false),
    ignoreMerges: r.flag("model.ignore_merges", model["ignore_merges"], false),
    template: around,
    bosToken: namedToken(options.config, "bos_token") ?? first,
    eosToken: namedToken(options.config, "eos_token"),
    written: {
      read,
      normalizer: root["normalizer"] ?? null,
      pre_tokenizer: root["pre_tokenizer"] ?? null,
      post_processor: root["post_processor"] ?? null,
      decoder: root["decoder"] ?? null,
      truncation: options.truncation === false ? null : (root["truncation"] ?? null),
      padding: options.padding === false ? null : (root["padding"] ?? null),
    },
  });
}
