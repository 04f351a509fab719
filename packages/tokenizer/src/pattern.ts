import { TokenizerError } from "./errors.js";

/** GPT-2's split pattern (Radford et al. 2019). */
export const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** What Rust's \\w is: a letter, mark, decimal digit, connector or joiner. */
export const WORD: RegExp = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

/** Longest split pattern, in characters. */
const MAX_PATTERN = 65536;

/** Letters that fold together without regard to case, beyond a and A. */
const FOLDS: Readonly<Record<string, string>> = { s: "\u017f", k: "\u212a" };

function anyCase(letter: string): string {
  const [low, high] = [letter.toLowerCase(), letter.toUpperCase()];
  return `${low}${high}${FOLDS[low] ?? ""}`;
}

/**
 * Translate a pattern of the Rust and Oniguruma dialects to JavaScript's "u" mode: \s is Unicode White_Space,
 * (?i:..) ignores case, possessive quantifiers become greedy ones.
 */
function translate(pattern: string): string {
  let out = "";
  /** Case sensitivity of each open group. */
  const groups: boolean[] = [];
  let fold = false;
  let inClass = false;
  for (let i = 0; i < pattern.length;) {
    const rest = pattern.slice(i);
    const char = String.fromCodePoint(pattern.codePointAt(i)!);
    if (char === "\\") {
      const next = pattern[i + 1] ?? "";
      const mapped: Record<string, string> = {
        s: "\\p{White_Space}",
        S: "\\P{White_Space}",
        h: "[0-9a-fA-F]",
        A: "^",
        z: "$",
        Z: "$",
      };
      if ((next === "p" || next === "P") && pattern[i + 2] === "{") {
        const end = pattern.indexOf("}", i);
        out += pattern.slice(i, end + 1);
        i = end < 0 ? pattern.length : end + 1;
        continue;
      }
      // Escapes that "u" mode knows stay; a needless escape loses its backslash.
      out += mapped[next] ?? (/[dDwWbBnrtfv0-9^$\\.*+?()[\]{}|/xuc-]/.test(next) ? `\\${next}` : next);
      i += 1 + next.length;
      continue;
    }
    if (inClass) {
      if (char === "]") inClass = false;
      out += fold && /[a-zA-Z]/.test(char) ? anyCase(char) : char;
      i += char.length;
      continue;
    }
    const flags = /^\(\?(i|-i)?:/.exec(rest);
    if (flags) {
      groups.push(fold);
      if (flags[1] !== undefined) fold = flags[1] === "i";
      out += "(?:";
      i += flags[0].length;
      continue;
    }
    if (char === "(") groups.push(fold);
    if (char === ")") fold = groups.pop() ?? false;
    if (char === "[") {
      inClass = true;
      out += "[";
      i++;
      if (pattern[i] === "^") {
        out += "^";
        i++;
      }
      continue;
    }
    const quantifier = /^(?:[?*+]|\{\d+(?:,\d*)?\})/.exec(rest)?.[0];
    if (quantifier !== undefined) {
      out += quantifier;
      i += quantifier.length;
      // Lazy stays lazy, possessive becomes greedy.
      if (pattern[i] === "?") out += "?";
      if (pattern[i] === "?" || pattern[i] === "+") i++;
      continue;
    }
    out += fold && /[a-zA-Z]/.test(char) ? `[${anyCase(char)}]` : char;
    i += char.length;
  }
  return out;
}

/** True if an unlimited repeat holds another one, as in (a+)+: such a pattern can take exponential time. */
function repeatsRepeat(pattern: string): boolean {
  const UNLIMITED = /^(?:[*+]|\{\d+,\})/;
  const groups: boolean[] = [];
  let holds = false;
  for (let i = 0; i < pattern.length; i++) {
    const char = pattern[i]!;
    if (char === "\\") i++;
    else if (char === "[") {
      while (i < pattern.length && pattern[i] !== "]") i += pattern[i] === "\\" ? 2 : 1;
    } else if (char === "(") {
      groups.push(holds);
      holds = false;
    } else if (char === ")") {
      if (holds && UNLIMITED.test(pattern.slice(i + 1, i + 12))) return true;
      holds = (groups.pop() ?? false) || holds;
    } else if (UNLIMITED.test(pattern.slice(i, i + 12))) holds = true;
  }
  return false;
}

/** Compile a split pattern. @throws TokenizerError */
export function compilePattern(source: string, pattern: string): RegExp {
  if (pattern.length > MAX_PATTERN)
    throw new TokenizerError(
      source,
      `its pattern has ${pattern.length} characters; at most ${MAX_PATTERN} are taken`,
    );
  if (repeatsRepeat(pattern))
    throw new TokenizerError(
      source,
      `pattern ${JSON.stringify(pattern)} repeats a repeat, which can take exponential time`,
    );
  try {
    return new RegExp(translate(pattern), "gu");
  } catch (cause) {
    throw new TokenizerError(
      source,
      `pattern ${JSON.stringify(pattern)} cannot be used (${cause instanceof Error ? cause.message : String(cause)})`,
      { cause },
    );
  }
}

/** A literal string as a pattern. */
export function literalPattern(text: string): RegExp {
  return new RegExp(text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "gu");
}

/** What happens to a match of a Split pre-tokenizer. */
export type SplitBehavior = "Isolated" | "Removed" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";
export const SPLIT_BEHAVIORS: readonly SplitBehavior[] = [
  "Isolated",
  "Removed",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
];

/** Cut a text at the matches of a pattern. */
export function split(text: string, pattern: RegExp, behavior: SplitBehavior, invert = false): string[] {
  const parts: { text: string; match: boolean }[] = [];
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    if (found[0].length === 0) continue;
    if (found.index > at) parts.push({ text: text.slice(at, found.index), match: invert });
    parts.push({ text: found[0], match: !invert });
    at = found.index + found[0].length;
  }
  if (at < text.length) parts.push({ text: text.slice(at), match: invert });
  switch (behavior) {
    case "Isolated":
      return parts.map((p) => p.text);
    case "Removed":
      return parts.filter((p) => !p.match).map((p) => p.text);
    case "MergedWithPrevious": {
      const out: string[] = [];
      let open = false;
      for (const p of parts) {
        if (p.match && open) out.push((out.pop() ?? "") + p.text);
        else out.push(p.text);
        open = !p.match;
      }
      return out;
    }
    case "MergedWithNext": {
      const out: string[] = [];
      let held = "";
      for (const p of parts) {
        if (p.match) {
          if (held !== "") out.push(held);
          held = p.text;
        } else {
          out.push(held + p.text);
          held = "";
        }
      }
      if (held !== "") out.push(held);
      return out;
    }
    case "Contiguous": {
      const out: string[] = [];
      let last: boolean | undefined;
      for (const p of parts) {
        if (p.match && last === true) out.push((out.pop() ?? "") + p.text);
        else out.push(p.text);
        last = p.match;
      }
      return out;
    }
  }
}
