import { byteSymbols } from "../pattern/byte_symbols.js";
import { metaspacePrefix } from "./decoder_steps.js";
import { show } from "../arguments.js";
import type { JsonReader } from "../json_reader.js";
import { MAX_DEPTH, splitPattern } from "./normalizer.js";
import { compilePattern, GPT2_PATTERN } from "../pattern/pattern.js";
import { split, SPLIT_BEHAVIORS, type SplitBehavior } from "./split.js";

/** One step of cutting a text into words. */
export type PreTokenizer =
  | {
      readonly type: "split";
      readonly pattern: RegExp;
      readonly behavior: SplitBehavior;
      readonly invert: boolean;
    }
  | { readonly type: "prefixSpace" }
  /** A word becomes the symbols of its bytes; steps after it see those. */
  | { readonly type: "bytes" }
  /** A space becomes a mark such as ▁; one is put before every piece of a text, the text's first, or none. */
  | {
      readonly type: "metaspace";
      readonly mark: string;
      readonly prefix: "always" | "first" | "never";
      readonly split: boolean;
    };

/** The words of a piece of a text; `first` says that the text begins with it. */
export function preTokenize(text: string, steps: readonly PreTokenizer[], first: boolean): string[] {
  let words = text === "" ? [] : [text];
  for (const step of steps) {
    switch (step.type) {
      case "prefixSpace":
        words = words.map((word) => (word.startsWith(" ") ? word : ` ${word}`));
        break;
      case "bytes":
        words = words.map(byteSymbols);
        break;
      case "metaspace":
        words = words.flatMap((word, i) => {
          const marked = word.replaceAll(" ", step.mark);
          const wanted = step.prefix === "always" || (step.prefix === "first" && first && i === 0);
          const whole = wanted && !marked.startsWith(step.mark) ? step.mark + marked : marked;
          return step.split ? whole.split(new RegExp(`(?=${step.mark})`, "u")) : [whole];
        });
        break;
      case "split":
        words = words.flatMap((word) => split(word, step.pattern, step.behavior, step.invert));
    }
  }
  return words;
}

function behaviorOf(r: JsonReader, where: string, value: unknown): SplitBehavior {
  const found = SPLIT_BEHAVIORS.find((behavior) => behavior === value);
  return (
    found ?? r.fail(`${where}.behavior`, `is ${show(value)}; it must be one of ${SPLIT_BEHAVIORS.join(", ")}`)
  );
}

const at = (pattern: RegExp, behavior: SplitBehavior, invert = false): PreTokenizer => ({
  type: "split",
  pattern,
  behavior,
  invert,
});

/** Words and runs of what is neither word nor space. */
const WORDS =
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;
/** Unicode's punctuation and ASCII's. */
const PUNCTUATION = /[\p{P}$+<=>^`|~]/gu;
const SPACES = /\p{White_Space}+/gu;

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
          ? [at(compilePattern(r.file, GPT2_PATTERN), "Isolated")]
          : []),
        { type: "bytes" },
      ];
    case "Metaspace": {
      const mark = r.string(`${where}.replacement`, step["replacement"] ?? "▁");
      if (!/^[^\\^$.*+?()[\]{}|/]$/u.test(mark)) r.fail(`${where}.replacement`, "must be one character");
      return [
        {
          type: "metaspace",
          mark,
          prefix: metaspacePrefix(r, where, step),
          split: r.flag(`${where}.split`, step["split"], true),
        },
      ];
    }
    case "Split":
      return [
        at(
          splitPattern(r, `${where}.pattern`, step["pattern"]),
          behaviorOf(r, where, step["behavior"]),
          r.flag(`${where}.invert`, step["invert"], false),
        ),
      ];
    case "Digits":
      return r.flag(`${where}.individual_digits`, step["individual_digits"], false)
        ? [at(/\p{N}/gu, "Isolated")]
        : [at(/\p{N}+/gu, "Isolated")];
    case "Whitespace":
      return [at(WORDS, "Removed", true)];
    case "WhitespaceSplit":
      return [at(SPACES, "Removed")];
    case "BertPreTokenizer":
      return [at(SPACES, "Removed"), at(PUNCTUATION, "Isolated")];
    case "Punctuation":
      return [at(PUNCTUATION, behaviorOf(r, where, step["behavior"] ?? "Isolated"))];
    case "Sequence":
      return r
        .array(`${where}.pretokenizers`, step["pretokenizers"])
        .flatMap((s, i) => preTokenizers(r, `${where}.pretokenizers[${i}]`, s, depth + 1));
    default:
      return r.unsupported(`${where}.type`, type);
  }
}
