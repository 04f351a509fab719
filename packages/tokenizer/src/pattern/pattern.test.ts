import { describe, expect, it } from "vitest";
import { TokenizerError } from "../errors.js";
import { compilePattern, GPT2_PATTERN } from "./pattern.js";
import { split, type SplitBehavior } from "../steps/split.js";

/** A text cut at the matches of a pattern. */
const cut = (pattern: string, text: string): string[] =>
  split(text, compilePattern("test", pattern), "Isolated");

/** Pattern, text and words; the words are those of Oniguruma itself, through Hugging Face's Rust library 0.23.2. */
const PIECES: readonly (readonly [pattern: string, text: string, words: readonly string[]])[] = [
  [String.raw`\d+`, "a1٣ b", ["a", "1٣", " b"]],
  [String.raw`\D+`, "a1٣ b", ["a", "1٣", " b"]],
  [" +$", "a  \nb  ", ["a", "  ", "\nb", "  "]],
  ["^ +", "  a\n b", ["  ", "a\n", " ", "b"]],
  ["$", "a\nb", ["a", "\nb"]],
  ["^", "a\nb", ["a\n", "b"]],
  ["(?i:[a-c]+)", "aB^_`x", ["aB", "^_`x"]],
  ["a(?i)b", "aB AB", ["aB", " AB"]],
  ["(?i:k+)", "Kk\u212a", ["Kk\u212a"]],
  ["(?i:σ)+", "ΣΟς", ["Σ", "Ο", "ς"]],
  ["a++b", "aab", ["aab"]],
  ["a++ab", "aab", ["aab"]],
  ["(?>a+)b", "aab", ["aab"]],
  [String.raw`\p{N}{1,3}+`, "12345", ["12345"]],
  [String.raw`\h+`, "fFgx", ["fF", "gx"]],
  [String.raw`\R`, "A.B\r\na\nb", ["A.B", "\r\n", "a", "\n", "b"]],
  [String.raw`\w+`, "don't ½ⓐ²①", ["don", "'", "t", " ", "½ⓐ²", "①"]],
  [String.raw`\b`, "a b", ["a", " ", "b"]],
  [String.raw`\s+`, "a\u0085\ufeffb\u001c", ["a", "\u0085", "\ufeffb\u001c"]],
  [String.raw`\Aab`, "abab", ["ab", "ab"]],
  [String.raw`ab\z`, "abab", ["ab", "ab"]],
  [String.raw`ab\Z`, "abab\n", ["ab", "ab", "\n"]],
  ["[a-z&&[^aeiou]]+", "abcde", ["a", "bcd", "e"]],
  ["[^a[b-d]]+", "xabcdy", ["x", "abcd", "y"]],
  ["[[:alpha:][:digit:]]+", "aé1-", ["aé1", "-"]],
  ["[[:^alpha:]]+", "aé1-", ["aé", "1-"]],
  ["[[:punct:]]+", "a$b!", ["a", "$", "b", "!"]],
  [String.raw`\p{^Lu}+`, "aBc", ["a", "B", "c"]],
  [String.raw`\p{Greek}+`, "aΩb", ["a", "Ω", "b"]],
  ["(?<=a|bc)d", "ad bcd", ["a", "d", " bc", "d"]],
  [String.raw`\x{61}+`, "baab", ["b", "aa", "b"]],
  ["(?m:a.b)", "a\nb", ["a\nb"]],
  ["a.b", "a\nb", ["a\nb"]],
  ["(?x) a b # c", "abc", ["ab", "c"]],
  ["(?<n>b|c\\g<n>d)", "ccbdd", ["ccbdd"]],
  ["a{,2}", "aaab", ["aa", "a", "b"]],
  ["x*", "axb", ["a", "x", "b"]],
  // BLOOM's.
  [" ?[^(\\s|[.,!?…。，、।۔،])]+", "ab, c|d", ["ab", ",", " c", "|", "d"]],
];

describe("split patterns are those of Oniguruma's dialect", () => {
  for (const [pattern, text, words] of PIECES)
    it(`${pattern} on ${JSON.stringify(text)}`, () => {
      expect(cut(pattern, text)).toEqual(words);
    });

  it("GPT-2's pattern", () => {
    expect(cut(GPT2_PATTERN, "I'll see  12 naïve cats!")).toEqual([
      "I",
      "'ll",
      " see",
      " ",
      " 12",
      " naïve",
      " cats",
      "!",
    ]);
  });

  const refused: Record<string, RegExp> = {
    "(a)|b\\1": /refers back to a group/,
    "(?i:straße)": /ß is also ss/,
    "(?i:ss)": /ss is also ß/,
    "(?i:[ß])": /ß is also ss/,
    "(?i:\\p{Lu}+)": /holds letters by case/,
    "(?i)[[:upper:]]+": /cannot be used/,
    "\\p{Word}+": /write \\w/,
    "\\X": /cannot be used/,
    "(a+)+$": /repeats a repeat/,
    "(": /cannot be used/,
    "\\p{Nothing}": /cannot be used/,
  };
  for (const [pattern, reason] of Object.entries(refused))
    it(`refuses ${pattern}, which has no exact translation`, () => {
      expect(() => compilePattern("test", pattern)).toThrow(reason);
      expect(() => compilePattern("test", pattern)).toThrow(TokenizerError);
    });
});

describe("split behaviours, plain and inverted", () => {
  const ways: Record<SplitBehavior, readonly [plain: string[], inverted: string[]]> = {
    Removed: [
      ["a", "c"],
      ["b", "b"],
    ],
    Isolated: [
      ["a", "b", "b", "c"],
      ["a", "b", "b", "c"],
    ],
    MergedWithPrevious: [
      ["ab", "b", "c"],
      ["a", "b", "bc"],
    ],
    MergedWithNext: [
      ["a", "b", "bc"],
      ["ab", "b", "c"],
    ],
    Contiguous: [
      ["a", "bb", "c"],
      ["a", "bb", "c"],
    ],
  };
  for (const [behavior, [plain, inverted]] of Object.entries(ways))
    it(behavior, () => {
      expect(split("abbc", /b/gu, behavior as SplitBehavior)).toEqual(plain);
      expect(split("abbc", /b/gu, behavior as SplitBehavior, true)).toEqual(inverted);
    });
});
