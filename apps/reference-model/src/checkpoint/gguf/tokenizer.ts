import { FormatError } from "@x/kernels";
import type { GgufFile, MetadataValue } from "./gguf_file.js";
import { PRE_TOKENIZERS } from "./pre_tokenizers.js";

/** `tokenizer.ggml.token_type` */
export const TOKEN_TYPES = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
const { unknown: UNKNOWN, control: CONTROL, userDefined: USER_DEFINED, byte: BYTE } = TOKEN_TYPES;

/** Longest piece that is taken apart: the merges of a piece take time with the square of its length. */
const MAX_PIECE = 1024;

/** Reads the values below "tokenizer.". */
class Vocabulary {
  readonly #file: GgufFile;
  readonly tokens: readonly string[];
  readonly types: readonly number[];

  constructor(file: GgufFile) {
    this.#file = file;
    this.tokens = this.#distinct(this.list("ggml.tokens", "string"));
    this.types = this.#optional("ggml.token_type", "number");
  }

  get(key: string): MetadataValue | undefined {
    return this.#file.metadata.get(`tokenizer.${key}`);
  }

  fail(key: string, message: string): never {
    throw new FormatError(this.#file.file, `tokenizer.${key} ${message}`);
  }

  text(key: string): string | undefined {
    const value = this.get(key);
    return typeof value === "string" ? value : undefined;
  }

  flag(key: string, otherwise: boolean): boolean {
    const value = this.get(key);
    return typeof value === "boolean" ? value : otherwise;
  }

  list(key: string, type: "string"): string[];
  list(key: string, type: "number"): number[];
  list(key: string, type: "string" | "number"): (string | number)[] {
    const value = this.get(key);
    if (!Array.isArray(value) || !value.every((x) => typeof x === type))
      return this.fail(key, `must be a list of ${type === "string" ? "texts" : "numbers"}`);
    return value as (string | number)[];
  }

  /** A list with a number for each token; without one all are 1. */
  #optional(key: string, type: "number"): number[] {
    if (this.get(key) === undefined) return this.tokens.map(() => 1);
    const list = this.list(key, type);
    if (list.length !== this.tokens.length)
      this.fail(key, `lists ${list.length} numbers; there are ${this.tokens.length} tokens`);
    return list;
  }

  scores(): number[] {
    return this.#optional("ggml.scores", "number");
  }

  /** A token that is there before gets a name that no text holds: ids are counted on. */
  #distinct(tokens: readonly string[]): string[] {
    const seen = new Set<string>();
    return tokens.map((token, id) => {
      const name = seen.has(token) ? `\ufdd0${id}` : token;
      seen.add(name);
      return name;
    });
  }

  /** The token of an id that the metadata names. */
  special(name: "bos" | "eos" | "unknown"): { id: number; content: string } | undefined {
    const key = `ggml.${name}_token_id`;
    const id = this.get(key);
    if (id === undefined) return undefined;
    const content = typeof id === "number" ? this.tokens[id] : undefined;
    if (content === undefined)
      return this.fail(key, `is ${String(id)}; there are ${this.tokens.length} tokens`);
    return { id: id as number, content };
  }

  vocab(): Record<string, number> {
    return Object.fromEntries(this.tokens.map((token, id) => [token, id]));
  }

  addedTokens(): object[] {
    return this.tokens.flatMap((content, id) => {
      const type = this.types[id]!;
      if (content === "" || (type !== UNKNOWN && type !== CONTROL && type !== USER_DEFINED)) return [];
      return [{ id, content, special: type !== USER_DEFINED, normalized: false }];
    });
  }

  /** Puts the tokens of beginning and end around a text. */
  template(addBos: boolean): object | null {
    const bos = this.flag("ggml.add_bos_token", addBos) ? this.special("bos") : undefined;
    const eos = this.flag("ggml.add_eos_token", false) ? this.special("eos") : undefined;
    const around = [bos, eos].filter((token) => token !== undefined);
    if (around.length === 0) return null;
    const item = (token: { content: string } | undefined): object[] =>
      token ? [{ SpecialToken: { id: token.content, type_id: 0 } }] : [];
    return {
      type: "TemplateProcessing",
      single: [...item(bos), { Sequence: { id: "A", type_id: 0 } }, ...item(eos)],
      pair: [
        ...item(bos),
        { Sequence: { id: "A", type_id: 0 } },
        ...item(eos),
        ...item(bos),
        { Sequence: { id: "B", type_id: 1 } },
        ...item(eos),
      ],
      special_tokens: Object.fromEntries(
        around.map(({ id, content }) => [content, { id: content, ids: [id], tokens: [content] }]),
      ),
    };
  }
}

/**
 * Merges of a vocabulary with scores: each way to make a piece of two others, the best piece first. Pieces are merged
 * in the order of their scores, which is what the ranks of merges say.
 */
function mergesOfScores(v: Vocabulary): [string, string][] {
  const { tokens, types } = v;
  const scores = v.scores();
  const plain = (id: number): boolean => types[id] !== CONTROL && types[id] !== UNKNOWN && types[id] !== BYTE;
  const ids = new Map(tokens.flatMap((token, id) => (plain(id) ? [[token, id] as const] : [])));
  const pieces = [...ids].sort(([, a], [, b]) => scores[b]! - scores[a]! || a - b);
  return pieces.flatMap(([piece]) => {
    const characters = Array.from(piece);
    if (characters.length > MAX_PIECE)
      v.fail("ggml.tokens", `hold a piece of ${characters.length} characters; at most ${MAX_PIECE} are read`);
    const ways: [left: number, right: number][] = [];
    for (let at = 0, n = 0; n + 1 < characters.length; n++) {
      at += characters[n]!.length;
      const left = ids.get(piece.slice(0, at));
      const right = left === undefined ? undefined : ids.get(piece.slice(at));
      if (left !== undefined && right !== undefined) ways.push([left, right]);
    }
    ways.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    return ways.map(([left, right]): [string, string] => [tokens[left]!, tokens[right]!]);
  });
}

/** A tokenizer.json of pieces with scores: ▁ stands for a space, characters without a piece are bytes. */
function sentencePiece(v: Vocabulary): object {
  const prefix = v.flag("ggml.add_space_prefix", true);
  const replace = { type: "Replace", pattern: { String: " " }, content: "▁" };
  return {
    version: "1.0",
    added_tokens: v.addedTokens(),
    normalizer: {
      type: "Sequence",
      normalizers: prefix ? [{ type: "Prepend", prepend: "▁" }, replace] : [replace],
    },
    pre_tokenizer: null,
    post_processor: v.template(true),
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: "BPE",
      unk_token: v.special("unknown")?.content ?? null,
      fuse_unk: true,
      byte_fallback: v.types.includes(BYTE),
      vocab: v.vocab(),
      merges: mergesOfScores(v),
    },
  };
}

/** A tokenizer.json of merges over the symbols of bytes. */
function byteLevel(v: Vocabulary): object {
  const name = v.text("ggml.pre") ?? "default";
  if (!Object.hasOwn(PRE_TOKENIZERS, name))
    v.fail("ggml.pre", `is ${JSON.stringify(name)}; known: ${Object.keys(PRE_TOKENIZERS).join(", ")}`);
  const { patterns, ignoreMerges = false, nfc = false, addBos = false } = PRE_TOKENIZERS[name]!;
  const merges = v.list("ggml.merges", "string").map((merge, i) => {
    // A part may begin with a space in some vocabularies, but none is empty.
    const at = merge.indexOf(" ", 1);
    if (at < 0 || at + 1 === merge.length)
      v.fail("ggml.merges", `hold ${JSON.stringify(merge)} at ${i}; a merge is of two parts`);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
  return {
    version: "1.0",
    added_tokens: v.addedTokens(),
    normalizer: nfc ? { type: "NFC" } : null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        ...patterns.map((Regex) => ({
          type: "Split",
          pattern: { Regex },
          behavior: "Isolated",
          invert: false,
        })),
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: v.template(addBos),
    decoder: { type: "ByteLevel" },
    model: {
      type: "BPE",
      ignore_merges: ignoreMerges,
      vocab: v.vocab(),
      merges,
    },
  };
}

const MODELS: Readonly<Record<string, (v: Vocabulary) => object>> = { llama: sentencePiece, gpt2: byteLevel };

/**
 * The tokenizer of a file as the files of a Hugging Face folder: tokenizer.json and tokenizer_config.json, with the chat
 * template. A file without a vocabulary, with one whose tokens are all unused, or of another model than "llama" and "gpt2" has none.
 *
 * @throws FormatError naming the file and the key
 */
export function tokenizerFiles(file: GgufFile): Readonly<Record<string, string>> {
  const model = file.metadata.get("tokenizer.ggml.model");
  const make = typeof model === "string" && Object.hasOwn(MODELS, model) ? MODELS[model] : undefined;
  if (!make || !file.metadata.has("tokenizer.ggml.tokens")) return {};
  const v = new Vocabulary(file);
  if (v.types.every((type) => type === TOKEN_TYPES.unused)) return {};
  const template = v.text("chat_template");
  const config = {
    bos_token: v.special("bos")?.content ?? null,
    eos_token: v.special("eos")?.content ?? null,
    ...(template === undefined ? {} : { chat_template: template }),
  };
  return { "tokenizer.json": JSON.stringify(make(v)), "tokenizer_config.json": JSON.stringify(config) };
}
