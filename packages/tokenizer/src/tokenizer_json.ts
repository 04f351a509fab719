import { BpeTokenizer, type AddedToken, type PreTokenizer } from "./bpe.js";
import { TokenizerError } from "./errors.js";
import {
  compilePattern,
  GPT2_PATTERN,
  literalPattern,
  SPLIT_BEHAVIORS,
  type SplitBehavior,
} from "./pattern.js";

type Json = Readonly<Record<string, unknown>>;

function isRecord(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value as text: short, and safe for what nests deeply. */
function show(value: unknown): string {
  if (value === undefined) return "absent";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return JSON.stringify(value).slice(0, 60);
}

/** Reads fields of a parsed file and says where something is wrong. */
class Reader {
  readonly file: string;
  constructor(file: string) {
    this.file = file;
  }
  fail(where: string, message: string): never {
    throw new TokenizerError(this.file, `${where} ${message}`);
  }
  object(where: string, value: unknown): Json {
    return isRecord(value) ? value : this.fail(where, `is ${show(value)}; it must be an object`);
  }
  array(where: string, value: unknown): readonly unknown[] {
    return Array.isArray(value)
      ? (value as unknown[])
      : this.fail(where, `is ${show(value)}; it must be a list`);
  }
  string(where: string, value: unknown): string {
    return typeof value === "string" ? value : this.fail(where, `is ${show(value)}; it must be a string`);
  }
  flag(where: string, value: unknown, otherwise: boolean): boolean {
    if (value === undefined || value === null) return otherwise;
    return typeof value === "boolean"
      ? value
      : this.fail(where, `is ${show(value)}; it must be true or false`);
  }
}

/** Steps nest at most this deep in a file that is meant well. */
const MAX_DEPTH = 16;

function normalizer(
  r: Reader,
  where: string,
  value: unknown,
  depth = 0,
): ((text: string) => string) | undefined {
  if (value === null || value === undefined) return undefined;
  if (depth > MAX_DEPTH) r.fail(where, "is nested too deeply");
  const step = r.object(where, value);
  const type = r.string(`${where}.type`, step["type"]);
  const pattern = (): RegExp => splitPattern(r, `${where}.pattern`, step["pattern"]);
  switch (type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => text.normalize(type);
    case "Lowercase":
      return (text) => text.toLowerCase();
    case "Strip": {
      const [left, right] = [
        r.flag(`${where}.strip_left`, step["strip_left"], true),
        r.flag(`${where}.strip_right`, step["strip_right"], true),
      ];
      return (text) => {
        const start = left ? text.replace(/^\p{White_Space}+/u, "") : text;
        return right ? start.replace(/\p{White_Space}+$/u, "") : start;
      };
    }
    case "StripAccents":
      return (text) => text.replace(/\p{Mn}/gu, "");
    case "Prepend": {
      const prefix = r.string(`${where}.prepend`, step["prepend"]);
      return (text) => (text === "" ? text : prefix + text);
    }
    case "Replace": {
      const regex = pattern();
      const content = r.string(`${where}.content`, step["content"]);
      return (text) => text.replace(regex, () => content);
    }
    case "Sequence": {
      const steps = r
        .array(`${where}.normalizers`, step["normalizers"])
        .map((s, i) => normalizer(r, `${where}.normalizers[${i}]`, s, depth + 1));
      return (text) => steps.reduce<string>((t, f) => (f ? f(t) : t), text);
    }
    default:
      return r.fail(`${where}.type`, `is ${JSON.stringify(type)}; it is not supported for byte-level BPE`);
  }
}

function splitPattern(r: Reader, where: string, value: unknown): RegExp {
  const pattern = r.object(where, value);
  if (typeof pattern["String"] === "string") return literalPattern(pattern["String"]);
  return compilePattern(r.file, r.string(`${where}.Regex`, pattern["Regex"]));
}

function behaviorOf(r: Reader, where: string, value: unknown): SplitBehavior {
  const found = SPLIT_BEHAVIORS.find((behavior) => behavior === value);
  return (
    found ?? r.fail(`${where}.behavior`, `is ${show(value)}; it must be one of ${SPLIT_BEHAVIORS.join(", ")}`)
  );
}

/** Words and runs of what is neither word nor space. */
const WORDS =
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;

function preTokenizers(r: Reader, where: string, value: unknown, depth = 0): PreTokenizer[] {
  if (value === null || value === undefined) return [];
  if (depth > MAX_DEPTH) r.fail(where, "is nested too deeply");
  const step = r.object(where, value);
  const type = r.string(`${where}.type`, step["type"]);
  switch (type) {
    case "ByteLevel":
      return [
        ...(r.flag(`${where}.add_prefix_space`, step["add_prefix_space"], true)
          ? [{ type: "prefixSpace" as const }]
          : []),
        ...(r.flag(`${where}.use_regex`, step["use_regex"], true)
          ? [
              {
                type: "split" as const,
                pattern: compilePattern(r.file, GPT2_PATTERN),
                behavior: "Isolated" as const,
                invert: false,
              },
            ]
          : []),
      ];
    case "Split":
      return [
        {
          type: "split",
          pattern: splitPattern(r, `${where}.pattern`, step["pattern"]),
          behavior: behaviorOf(r, where, step["behavior"]),
          invert: r.flag(`${where}.invert`, step["invert"], false),
        },
      ];
    case "Digits": {
      const single = r.flag(`${where}.individual_digits`, step["individual_digits"], false);
      return [
        { type: "split", pattern: single ? /\p{N}/gu : /\p{N}+/gu, behavior: "Isolated", invert: false },
      ];
    }
    case "Whitespace":
      return [
        {
          type: "split",
          pattern: WORDS,
          behavior: "Removed",
          invert: true,
        },
      ];
    case "WhitespaceSplit":
      return [{ type: "split", pattern: /\p{White_Space}+/gu, behavior: "Removed", invert: false }];
    case "Punctuation":
      return [
        {
          type: "split",
          // Unicode's punctuation and ASCII's.
          pattern: /[\p{P}$+<=>^`|~]/gu,
          behavior: behaviorOf(r, where, step["behavior"] ?? "Isolated"),
          invert: false,
        },
      ];
    case "Sequence":
      return r
        .array(`${where}.pretokenizers`, step["pretokenizers"])
        .flatMap((s, i) => preTokenizers(r, `${where}.pretokenizers[${i}]`, s, depth + 1));
    default:
      return r.fail(`${where}.type`, `is ${JSON.stringify(type)}; it is not supported for byte-level BPE`);
  }
}

interface Template {
  before: number[];
  after: number[];
}

function template(
  r: Reader,
  where: string,
  value: unknown,
  id: (token: string) => number | undefined,
  depth = 0,
): Template {
  const none = { before: [], after: [] };
  if (value === null || value === undefined) return none;
  if (depth > MAX_DEPTH) r.fail(where, "is nested too deeply");
  const step = r.object(where, value);
  const type = r.string(`${where}.type`, step["type"]);
  switch (type) {
    case "ByteLevel":
      return none;
    case "Sequence":
      return r
        .array(`${where}.processors`, step["processors"])
        .map((s, i) => template(r, `${where}.processors[${i}]`, s, id, depth + 1))
        .reduce<Template>(
          (a, b) => ({ before: [...b.before, ...a.before], after: [...a.after, ...b.after] }),
          none,
        );
    case "TemplateProcessing": {
      const out: Template = { before: [], after: [] };
      let seen = false;
      r.array(`${where}.single`, step["single"]).forEach((item, i) => {
        const at = `${where}.single[${i}]`;
        const entry = r.object(at, item);
        if (isRecord(entry["Sequence"])) {
          seen = true;
          return;
        }
        const token = r.string(
          `${at}.SpecialToken.id`,
          r.object(`${at}.SpecialToken`, entry["SpecialToken"])["id"],
        );
        const found = id(token);
        if (found === undefined)
          r.fail(`${at}.SpecialToken.id`, `is ${JSON.stringify(token)}, which is no token`);
        out[seen ? "after" : "before"].push(found);
      });
      return out;
    }
    case "RobertaProcessing":
    case "BertProcessing": {
      const token = (key: string): number => {
        const [name] = r.array(`${where}.${key}`, step[key]);
        return id(r.string(`${where}.${key}[0]`, name)) ?? r.fail(`${where}.${key}`, "is no token");
      };
      return { before: [token("cls")], after: [token("sep")] };
    }
    default:
      return r.fail(`${where}.type`, `is ${JSON.stringify(type)}; it is not supported for byte-level BPE`);
  }
}

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

function parseVocab(r: Reader, where: string, value: unknown): Record<string, number> {
  const vocab: Record<string, number> = Object.create(null) as Record<string, number>;
  for (const [token, id] of Object.entries(r.object(where, value))) {
    if (typeof id !== "number")
      r.fail(`${where}[${JSON.stringify(token)}]`, `is ${show(id)}; it must be an integer`);
    vocab[token] = id;
  }
  return vocab;
}

function parseMerge(r: Reader, where: string, value: unknown): [string, string] {
  const pair = typeof value === "string" ? value.split(" ") : r.array(where, value);
  if (pair.length !== 2 || !pair.every((p) => typeof p === "string" && p !== ""))
    r.fail(where, `is ${show(value)}; it must be two tokens`);
  return pair as [string, string];
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
  const r = new Reader(options.file ?? "tokenizer.json");
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

/** Read GPT-2's two files: the parsed vocab.json and the text of merges.txt. @throws TokenizerError */
export function fromGpt2Files(
  files: { readonly vocab: unknown; readonly merges: string },
  options: { readonly addedTokens?: readonly string[] } = {},
): BpeTokenizer {
  const r = new Reader("vocab.json");
  const vocab = parseVocab(r, "the file", files.vocab);
  const m = new Reader("merges.txt");
  const merges = files.merges
    .split("\n")
    .map((line) => line.replace(/\r$/, ""))
    .flatMap((line, i) =>
      line === "" || (i === 0 && line.startsWith("#version")) ? [] : [parseMerge(m, `line ${i + 1}`, line)],
    );
  const special = options.addedTokens ?? ["<|endoftext|>"];
  return new BpeTokenizer({
    source: "vocab.json",
    vocab,
    merges,
    addedTokens: special.flatMap((content) =>
      vocab[content] === undefined ? [] : [{ id: vocab[content], content, special: true }],
    ),
    preTokenizers: [
      { type: "split", pattern: compilePattern("GPT-2", GPT2_PATTERN), behavior: "Isolated", invert: false },
    ],
    bosToken: special[0],
    eosToken: special[0],
  });
}

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
