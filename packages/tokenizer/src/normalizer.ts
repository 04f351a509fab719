import { byteSymbols } from "./byte_symbols.js";
import type { JsonReader } from "./json_reader.js";
import { compilePattern, literalPattern } from "./pattern.js";

/** Steps nest at most this deep in a file that is meant well. */
export const MAX_DEPTH = 16;

export function splitPattern(r: JsonReader, where: string, value: unknown): RegExp {
  const pattern = r.object(where, value);
  if (typeof pattern["String"] === "string") return literalPattern(pattern["String"]);
  return compilePattern(r.file, r.string(`${where}.Regex`, pattern["Regex"]));
}

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
  switch (type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => text.normalize(type);
    case "Lowercase":
      // Character by character: the rule of strings makes the last Σ of a word ς.
      return (text) => Array.from(text, (char) => char.toLowerCase()).join("");
    case "Strip": {
      const left = r.flag(`${where}.strip_left`, step["strip_left"], true);
      const right = r.flag(`${where}.strip_right`, step["strip_right"], true);
      return (text) => {
        const start = left ? text.replace(/^\p{White_Space}+/u, "") : text;
        return right ? start.replace(/(?<!\p{White_Space})\p{White_Space}+$/u, "") : start;
      };
    }
    case "StripAccents":
      // Every mark: Mn, Mc and Me.
      return (text) => text.replace(/\p{M}/gu, "");
    case "Prepend": {
      const prefix = r.string(`${where}.prepend`, step["prepend"]);
      return (text) => (text === "" ? text : prefix + text);
    }
    case "Replace": {
      const regex = splitPattern(r, `${where}.pattern`, step["pattern"]);
      const content = r.string(`${where}.content`, step["content"]);
      return (text) => text.replace(regex, () => content);
    }
    case "ByteLevel":
      return byteSymbols;
    case "Sequence": {
      const steps = r
        .array(`${where}.normalizers`, step["normalizers"])
        .map((s, i) => normalizer(r, `${where}.normalizers[${i}]`, s, depth + 1));
      return (text) => steps.reduce<string>((t, f) => (f ? f(t) : t), text);
    }
    default:
      return r.unsupported(`${where}.type`, type);
  }
}
