import type { PreTokenizer } from "./bpe.js";
import { isRecord, show, type JsonReader } from "./json_reader.js";
import { compilePattern, GPT2_PATTERN, literalPattern } from "./pattern.js";
import { SPLIT_BEHAVIORS, type SplitBehavior } from "./split.js";

/** Steps nest at most this deep in a file that is meant well. */
export const MAX_DEPTH = 16;

/** What is done to a text before it is split. */
export function normalizer(
  r: JsonReader,
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

function splitPattern(r: JsonReader, where: string, value: unknown): RegExp {
  const pattern = r.object(where, value);
  if (typeof pattern["String"] === "string") return literalPattern(pattern["String"]);
  return compilePattern(r.file, r.string(`${where}.Regex`, pattern["Regex"]));
}

function behaviorOf(r: JsonReader, where: string, value: unknown): SplitBehavior {
  const found = SPLIT_BEHAVIORS.find((behavior) => behavior === value);
  return (
    found ?? r.fail(`${where}.behavior`, `is ${show(value)}; it must be one of ${SPLIT_BEHAVIORS.join(", ")}`)
  );
}

/** Words and runs of what is neither word nor space. */
const WORDS =
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;

/** How a text is split before merges apply. */
export function preTokenizers(r: JsonReader, where: string, value: unknown, depth = 0): PreTokenizer[] {
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

/** Tokens that are put around a text. */
export interface Template {
  before: number[];
  after: number[];
}

export function template(
  r: JsonReader,
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
