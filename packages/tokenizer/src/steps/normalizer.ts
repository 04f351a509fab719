import { byteSymbols } from "../pattern/byte_symbols.js";
import type { JsonReader } from "../json_reader.js";
import { compilePattern, literalPattern } from "../pattern/pattern.js";

/** Steps nest at most this deep in a file that is meant well. */
export const MAX_DEPTH = 16;

export function splitPattern(r: JsonReader, where: string, value: unknown): RegExp {
  const pattern = r.object(where, value);
  if (typeof pattern["String"] === "string") return literalPattern(pattern["String"]);
  return compilePattern(r.file, r.string(`${where}.Regex`, pattern["Regex"]));
}

const CHINESE =
  /[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]/gu;

/** Lower case character by character: the rule of strings makes the last Σ of a word ς. */
const lowercase = (text: string): string => Array.from(text, (char) => char.toLowerCase()).join("");

/** BERT's: control characters out, space around Chinese characters, accents off, lower case (Devlin et al. 2018). */
function bertNormalizer(
  r: JsonReader,
  where: string,
  step: Readonly<Record<string, unknown>>,
): (text: string) => string {
  const flag = (key: string, otherwise: boolean): boolean => r.flag(`${where}.${key}`, step[key], otherwise);
  const lower = flag("lowercase", true);
  const [clean, chinese, accents] = [
    flag("clean_text", true),
    flag("handle_chinese_chars", true),
    flag("strip_accents", lower),
  ];
  return (text) => {
    let out = text;
    if (clean)
      out = out.replace(/(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\ufffd]/gu, "").replace(/\p{White_Space}/gu, " ");
    if (chinese) out = out.replace(CHINESE, " $& ");
    if (accents) out = out.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lower ? lowercase(out) : out;
  };
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
      return lowercase;
    case "BertNormalizer":
      return bertNormalizer(r, where, step);
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
