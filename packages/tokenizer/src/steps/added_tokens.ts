import { WORD } from "../pattern/pattern.js";
import type { AllowedSpecial } from "../tokenizer.js";

/** A token outside the merges, matched in the text as it stands. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  /** Also takes the white space before (after) it. */
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  /** Only where it is not part of a longer word. */
  readonly singleWord?: boolean;
  /** Normalised itself, and matched after the normaliser has run. */
  readonly normalized?: boolean;
}

const escape = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
const isSpace = (char: string): boolean => /\p{White_Space}/u.test(char);
const isWord = (char: string): boolean => WORD.test(char);
/** The character that ends at (starts at) an index, or "" at the text's border. */
const before = (text: string, at: number): string =>
  /.$/su.exec(text.slice(Math.max(0, at - 2), at))?.[0] ?? "";
const after = (text: string, at: number): string => /^./su.exec(text.slice(at, at + 2))?.[0] ?? "";

interface Matcher {
  readonly regex: RegExp;
  readonly tokens: ReadonlyMap<string, AddedToken>;
}

/**
 * Finds added tokens in a text: at each place the longest, first those that are matched in the text as it stands, then
 * those that are matched in the normalised text.
 */
export class AddedTokens {
  readonly #tokens: readonly AddedToken[];
  readonly #normalize: (text: string) => string;
  readonly #matchers: Map<string, Matcher | undefined> = new Map<string, Matcher | undefined>();

  constructor(tokens: readonly AddedToken[], normalize: (text: string) => string = (text) => text) {
    // Of tokens that are the same text once normalised a special one is found.
    this.#tokens = [...tokens].sort((a, b) => Number(b.special ?? false) - Number(a.special ?? false));
    this.#normalize = normalize;
  }

  /** A text in pieces: ids of the tokens in it, and normalised text between them. */
  cut(text: string, allowed: AllowedSpecial): (string | number)[] {
    const out: (string | number)[] = [];
    for (const piece of this.#find(text, false, allowed)) {
      if (typeof piece === "number") out.push(piece);
      else for (const inner of this.#find(this.#normalize(piece), true, allowed)) out.push(inner);
    }
    return out;
  }

  /** Alternation of the tokens of one kind, the longest first. */
  #matcher(normalized: boolean, allowed: AllowedSpecial): Matcher | undefined {
    const key = `${String(normalized)} ${typeof allowed === "string" ? allowed : JSON.stringify(allowed)}`;
    if (this.#matchers.has(key)) return this.#matchers.get(key);
    const tokens = new Map<string, AddedToken>();
    for (const token of this.#tokens) {
      if ((token.normalized ?? false) !== normalized) continue;
      if (
        token.special === true &&
        allowed !== "all" &&
        (allowed === "none" || !allowed.includes(token.content))
      )
        continue;
      const content = normalized ? this.#normalize(token.content) : token.content;
      if (content !== "" && !tokens.has(content)) tokens.set(content, token);
    }
    const contents = [...tokens.keys()].sort((a, b) => b.length - a.length);
    const matcher =
      contents.length === 0 ? undefined : { regex: new RegExp(contents.map(escape).join("|"), "gu"), tokens };
    if (this.#matchers.size > 64) this.#matchers.clear();
    this.#matchers.set(key, matcher);
    return matcher;
  }

  #find(text: string, normalized: boolean, allowed: AllowedSpecial): (string | number)[] {
    const matcher = this.#matcher(normalized, allowed);
    if (!matcher) return text === "" ? [] : [text];
    const out: (string | number)[] = [];
    let at = 0;
    for (const { 0: content, index } of text.matchAll(matcher.regex)) {
      const token = matcher.tokens.get(content)!;
      let [start, end] = [index, index + content.length];
      if (token.singleWord === true && (isWord(before(text, start)) || isWord(after(text, end)))) continue;
      if (token.lstrip === true) while (start > at && isSpace(text[start - 1]!)) start--;
      if (token.rstrip === true) while (end < text.length && isSpace(text[end]!)) end++;
      if (start > at) out.push(text.slice(at, start));
      // A token that lies in white space which the one before it took is found all the same.
      out.push(token.id);
      at = end;
    }
    if (at < text.length) out.push(text.slice(at));
    return out;
  }
}
