import { generate } from "oniguruma-parser/generator";
import { parse } from "oniguruma-parser/parser";
import { toRegExp } from "oniguruma-to-es";
import { TokenizerError } from "../errors.js";
import { fault } from "./rules.js";
import { spellOutWords } from "./words.js";

/** GPT-2's split pattern (Radford et al. 2019). */
export const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** What Rust's \w is: a letter, mark, decimal digit, connector or joiner. */
export const WORD: RegExp = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

/** Longest split pattern, in characters. */
const MAX_PATTERN = 65536;

/**
 * Compile a split pattern, which is one of Oniguruma's dialect, as in the format's own library: `\d` is any decimal
 * digit of Unicode, `$` the end of a line, and so on. What has no exact translation is refused.
 *
 * @throws TokenizerError
 */
export function compilePattern(source: string, pattern: string): RegExp {
  if (pattern.length > MAX_PATTERN)
    throw new TokenizerError(
      source,
      `its pattern has ${pattern.length} characters; at most ${MAX_PATTERN} are taken`,
    );
  const refuse = (reason: string, cause?: unknown): never => {
    throw new TokenizerError(source, `pattern ${JSON.stringify(pattern)} cannot be used (${reason})`, {
      cause,
    });
  };
  let reason: string | undefined;
  try {
    const tree = parse(pattern);
    // The parser takes \p{Word} for [[:word:]], which is another set.
    reason = /\\p\{\^?[\s_-]*word[\s_-]*\}/i.test(pattern)
      ? "\\p{Word} is not taken; write \\w"
      : fault(tree);
    if (reason === undefined) {
      const words = spellOutWords(tree);
      return toRegExp(words ? generate(tree).pattern : pattern, {
        accuracy: "strict",
        target: "ES2024",
        global: true,
      });
    }
  } catch (cause) {
    return refuse(cause instanceof Error ? cause.message : String(cause), cause);
  }
  return refuse(reason);
}

/** A literal string as a pattern. */
export function literalPattern(text: string): RegExp {
  return new RegExp(text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "gu");
}
