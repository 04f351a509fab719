import { ConfigError } from "@x/kernels";
import { GPT2_PATTERN } from "@x/tokenizer";
import type { ModelSource } from "../stored.js";
import type { Json, WrittenValue } from "./architectures/index.js";
import { PRE_TOKENIZERS } from "./pre_tokenizers.js";
import { TOKEN_TYPES } from "./tokenizer.js";

const record = (value: unknown): Json =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? (value as unknown[]) : []);

/** Steps of tokenizer.json, those in sequences among them. */
const steps = (step: unknown, inner: string): Json[] =>
  record(step)["type"] === "Sequence" ? list(record(step)[inner]).map(record) : step ? [record(step)] : [];

/** The patterns by which texts are split, one after the other; undefined for steps that are other ones. */
function patternsOf(preTokenizer: unknown): string[] | undefined {
  const out: string[] = [];
  for (const step of steps(preTokenizer, "pretokenizers")) {
    const pattern = record(step["pattern"])["Regex"];
    if (step["type"] === "ByteLevel") {
      if (step["add_prefix_space"] !== false) return undefined;
      if (step["use_regex"] !== false) out.push(GPT2_PATTERN);
    } else if (step["type"] === "Digits" && step["individual_digits"] === true) out.push(String.raw`\p{N}`);
    else if (step["type"] === "Split" && typeof pattern === "string") out.push(pattern);
    else return undefined;
  }
  return out;
}

/** The name that GGUF has for the way of splitting texts. @throws ConfigError where it has none */
function preName(file: string, root: Json): string {
  const patterns = patternsOf(root["pre_tokenizer"]);
  const merges = record(root["model"])["ignore_merges"] === true;
  const known = Object.entries(PRE_TOKENIZERS);
  const same = known.filter(([, pre]) => pre.patterns.join("\n") === patterns?.join("\n"));
  const found = same.find(([, pre]) => (pre.ignoreMerges ?? false) === merges);
  if (!found)
    throw new ConfigError(
      file,
      `splits texts in a way that GGUF has no name for (${JSON.stringify(root["pre_tokenizer"] ?? null).slice(0, 200)}); known: ${known.map(([name]) => name).join(", ")}`,
    );
  return found[0];
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

const added = (root: Json): AddedToken[] => list(root["added_tokens"]) as AddedToken[];

const BYTE = /^<0x[0-9A-F]{2}>$/;

/** Tokens and their types by id; ids without a token get a name that no text holds. */
function tokensOf(root: Json, count: number): { tokens: string[]; types: number[] } {
  const model = record(root["model"]);
  const tokens = Array.from({ length: count }, (_, id) => `[PAD${id}]`);
  const types = tokens.map((): number => TOKEN_TYPES.unused);
  const put = (id: unknown, token: string, type: number): void => {
    if (typeof id !== "number" || id >= count) return;
    tokens[id] = token;
    types[id] = type;
  };
  for (const [token, id] of Object.entries(record(model["vocab"])))
    put(id, token, BYTE.test(token) ? TOKEN_TYPES.byte : TOKEN_TYPES.normal);
  for (const { id, content, special } of added(root))
    put(
      id,
      content,
      content === model["unk_token"]
        ? TOKEN_TYPES.unknown
        : special
          ? TOKEN_TYPES.control
          : TOKEN_TYPES.userDefined,
    );
  return { tokens, types };
}

const pair = (merge: unknown): [string, string] =>
  (Array.isArray(merge) ? merge : String(merge).split(" ")) as [string, string];

/** Scores that bring pieces about in the order of their merges. */
function scoresOf(tokens: readonly string[], merges: readonly unknown[]): number[] {
  const ranks = new Map<string, number>();
  for (const [rank, merge] of merges.entries()) {
    const piece = pair(merge).join("");
    if (!ranks.has(piece)) ranks.set(piece, rank);
  }
  return tokens.map((token) => -1 - (ranks.get(token) ?? merges.length));
}

/** Special tokens at the beginning and the end of a text. */
function around(root: Json): { before: string[]; after: string[] } {
  const template = steps(root["post_processor"], "processors").find(
    ({ type }) => type === "TemplateProcessing",
  );
  const single = list(template?.["single"]).map(record);
  const at = single.findIndex((item) => "Sequence" in item);
  const names = (items: readonly Json[]): string[] =>
    items.map((item) => String(record(item["SpecialToken"])["id"]));
  return at < 0
    ? { before: [], after: [] }
    : { before: names(single.slice(0, at)), after: names(single.slice(at + 1)) };
}

async function parsed(source: ModelSource, name: string): Promise<Json | undefined> {
  const content = await source.file(name);
  if (content === undefined) return undefined;
  const text = typeof content === "string" ? content : new TextDecoder().decode(content);
  return record(JSON.parse(text));
}

/** Whether a space is put in front of a text. */
const prefixes = (root: Json): boolean =>
  steps(root["normalizer"], "normalizers").some(({ type }) => type === "Prepend") ||
  steps(root["pre_tokenizer"], "pretokenizers").some(
    (step) =>
      step["type"] === "Metaspace" &&
      step["prepend_scheme"] !== "never" &&
      step["add_prefix_space"] !== false,
  );

/** The first id that config.json has under a key. */
function firstId(config: Json, key: string): number | undefined {
  const value = config[key];
  const first: unknown = Array.isArray(value) ? value[0] : value;
  return typeof first === "number" ? first : undefined;
}

/** A vocabulary of tokens that no text holds, all marked as unused: llama.cpp runs no model without a vocabulary. */
function nameless(config: Json, count: number): Record<string, WrittenValue> {
  const { tokens, types } = tokensOf({}, count);
  const ids = { bos: firstId(config, "bos_token_id"), eos: firstId(config, "eos_token_id") };
  return {
    "tokenizer.ggml.model": { type: "string", value: "gpt2" },
    "tokenizer.ggml.pre": { type: "string", value: "default" },
    "tokenizer.ggml.tokens": { type: "strings", value: tokens },
    "tokenizer.ggml.token_type": { type: "i32s", value: types },
    "tokenizer.ggml.merges": { type: "strings", value: [] },
    ...idMetadata(ids),
    "tokenizer.ggml.add_bos_token": { type: "bool", value: false },
  };
}

const idMetadata = (ids: Readonly<Record<string, number | undefined>>): Record<string, WrittenValue> =>
  Object.fromEntries(
    Object.entries(ids).flatMap(([name, value]): [string, WrittenValue][] =>
      value === undefined ? [] : [[`tokenizer.ggml.${name}_token_id`, { type: "u32", value }]],
    ),
  );

/**
 * The tokenizer of a model as metadata, with `count` tokens. A model without one gets names that no text holds.
 *
 * @throws ConfigError for a tokenizer that GGUF cannot say
 */
export async function tokenizerMetadata(
  source: ModelSource,
  config: Json,
  count: number,
): Promise<Record<string, WrittenValue>> {
  const root = await parsed(source, "tokenizer.json");
  if (!root) return nameless(config, count);
  const model = record(root["model"]);
  const file = `${source.path}: tokenizer.json`;
  if ((model["type"] ?? "BPE") !== "BPE")
    throw new ConfigError(file, `is a ${String(model["type"])} model; GGUF files are written of BPE models`);
  const { tokens, types } = tokensOf(root, count);
  const merges = list(model["merges"]);
  const pieces = model["byte_fallback"] === true;
  const { before, after } = around(root);
  const id = (name: unknown): number | undefined => {
    const at = typeof name === "string" ? tokens.indexOf(name) : -1;
    return at < 0 ? undefined : at;
  };
  const ids = {
    bos: id(before[0]) ?? firstId(config, "bos_token_id"),
    eos: firstId(config, "eos_token_id"),
    unknown: id(model["unk_token"]),
  };
  const settings = await parsed(source, "tokenizer_config.json");
  const template = (await source.file("chat_template.jinja")) ?? settings?.["chat_template"];
  const chat = template instanceof Uint8Array ? new TextDecoder().decode(template) : template;
  return {
    "tokenizer.ggml.model": { type: "string", value: pieces ? "llama" : "gpt2" },
    "tokenizer.ggml.pre": { type: "string", value: pieces ? "default" : preName(file, root) },
    "tokenizer.ggml.tokens": { type: "strings", value: tokens },
    "tokenizer.ggml.token_type": { type: "i32s", value: types },
    ...(pieces
      ? {
          "tokenizer.ggml.scores": { type: "f32s", value: scoresOf(tokens, merges) },
          "tokenizer.ggml.add_space_prefix": { type: "bool", value: prefixes(root) },
        }
      : {
          "tokenizer.ggml.merges": { type: "strings", value: merges.map((merge) => pair(merge).join(" ")) },
        }),
    ...idMetadata(ids),
    "tokenizer.ggml.add_bos_token": { type: "bool", value: before.length > 0 },
    "tokenizer.ggml.add_eos_token": { type: "bool", value: after.length > 0 },
    ...(typeof chat === "string" ? { "tokenizer.chat_template": { type: "string", value: chat } } : {}),
  };
}
