import type { AlternativeNode, CharacterClassNode, CharacterSetNode, Node } from "oniguruma-parser/parser";
import { toRegExp } from "oniguruma-to-es";

/** What is true at a place of a pattern. */
interface Place {
  /** Letters match without regard to case. */
  readonly fold: boolean;
  /** An unlimited repeat holds the place. */
  readonly repeated: boolean;
}

/** Characters whose case folding is a sequence of characters, such as ß (ss), by sequence. Unicode's CaseFolding, F. */
function multipleFolds(): ReadonlyMap<string, readonly string[]> {
  const out = new Map<string, string[]>();
  for (let code = 0x80; code < 0x1_0000; code++) {
    if (code === 0xd800) code = 0xe000;
    const char = String.fromCharCode(code);
    const folded = char.toLowerCase().toUpperCase().toLowerCase();
    if (folded.length > 1) out.set(folded, [...(out.get(folded) ?? []), char]);
  }
  return out;
}
let folds: ReadonlyMap<string, readonly string[]> | undefined;

/** A letter that folds with no other than itself and its capital. */
const fold = (text: string): string => Array.from(text, (char) => char.toUpperCase().toLowerCase()).join("");

/** The source of a class as it stands in the dialect, to try what it matches. */
function classSource(node: CharacterClassNode | CharacterSetNode): string | undefined {
  const char = (code: number): string => `\\x{${code.toString(16)}}`;
  if (node.type === "CharacterSet") {
    if (node.kind === "property") return `\\${node.negate ? "P" : "p"}{${node.value}}`;
    if (node.kind === "posix") return `[[:${node.negate ? "^" : ""}${node.value}:]]`;
    return undefined;
  }
  const parts = node.body.map((item): string | undefined => {
    if (item.type === "Character") return char(item.value);
    if (item.type === "CharacterClassRange") return `${char(item.min.value)}-${char(item.max.value)}`;
    if (item.type === "CharacterSet") {
      const letters: Record<string, string> = { digit: "d", space: "s", word: "w", hex: "h" };
      const letter = letters[item.kind];
      if (letter !== undefined) return `\\${item.negate === true ? letter.toUpperCase() : letter}`;
      return item.kind === "posix" ? `[:${item.negate ? "^" : ""}${item.value}:]` : classSource(item);
    }
    return classSource(item);
  });
  if (parts.includes(undefined)) return undefined;
  return `[${node.negate ? "^" : ""}${parts.join(node.kind === "intersection" ? "&&" : "")}]`;
}

/** Why a class without regard to case is not matched exactly, if it is not. */
function classUnderFold(node: CharacterClassNode | CharacterSetNode, nested: boolean): string | undefined {
  const source = classSource(node);
  if (source === undefined) return undefined;
  if (node.type === "CharacterClass" && node.kind === "intersection" && /\\x/.test(source))
    return `${source} is an intersection, where case is not regarded`;
  const plain = toRegExp(`\\A${source}\\z`, { target: "ES2024" });
  if (node.type === "CharacterSet") {
    const byCase = Array.from("aAkKsSzZéÉσΣжЖǅ").some(
      (c) => plain.test(c) !== plain.test(c.toLowerCase()) || plain.test(c) !== plain.test(c.toUpperCase()),
    );
    return byCase ? `${source} holds letters by case, where case is not regarded` : undefined;
  }
  if (nested || node.negate) return undefined;
  folds ??= multipleFolds();
  for (const [sequence, chars] of folds) {
    const char = chars.find((c) => plain.test(c));
    if (
      char !== undefined &&
      !Array.from(sequence).every((c) => plain.test(c) || plain.test(c.toUpperCase()))
    )
      return `without regard to case ${char} is also ${sequence}, a sequence of characters`;
  }
  return undefined;
}

/** Why literal text without regard to case is not matched exactly, if it is not. */
function textUnderFold(text: string): string | undefined {
  folds ??= multipleFolds();
  const folded = fold(text);
  for (const [sequence, chars] of folds) {
    const char = chars.find((c) => text.includes(c));
    if (char !== undefined || folded.includes(sequence))
      return `without regard to case ${char ?? sequence} is also ${char === undefined ? chars[0]! : sequence}, which is not a single character`;
  }
  return undefined;
}

/** Fold of what follows a flag group or directive. */
function folding(flags: Flags | undefined, before: boolean): boolean {
  if (flags?.enable?.ignoreCase === true) return true;
  return flags?.disable?.ignoreCase === true ? false : before;
}
interface Flags {
  readonly enable?: { readonly ignoreCase?: boolean };
  readonly disable?: { readonly ignoreCase?: boolean };
}

function alternatives(body: readonly AlternativeNode[], place: Place): string | undefined {
  let here = place;
  for (const alternative of body) {
    let text = "";
    for (const node of alternative.body) {
      if (node.type === "Directive" && node.kind === "flags")
        here = { ...here, fold: folding(node.flags, here.fold) };
      if (node.type === "Character") text += String.fromCodePoint(node.value);
      else {
        const reason = (here.fold ? textUnderFold(text) : undefined) ?? fault(node, here);
        if (reason !== undefined) return reason;
        text = "";
      }
    }
    const reason = here.fold ? textUnderFold(text) : undefined;
    if (reason !== undefined) return reason;
  }
  return undefined;
}

/**
 * Why a pattern of the dialect has no exact translation to JavaScript, or takes exponential time; undefined where it
 * can be used. The translation library refuses what it knows it cannot do; these are the rest.
 */
export function fault(node: Node, place: Place = { fold: false, repeated: false }): string | undefined {
  switch (node.type) {
    case "Group":
      return alternatives(node.body, {
        ...place,
        fold: folding(node.flags, place.fold),
      });
    case "Regex":
    case "CapturingGroup":
    case "LookaroundAssertion":
    case "AbsenceFunction":
      return alternatives(node.body, place);
    case "Quantifier": {
      const unlimited = node.max === Infinity;
      if (unlimited && place.repeated) return "it repeats a repeat, which can take exponential time";
      if (place.fold && node.body.type === "Character") {
        const reason = textUnderFold(String.fromCodePoint(node.body.value));
        if (reason !== undefined) return reason;
      }
      return fault(node.body, { ...place, repeated: place.repeated || unlimited });
    }
    case "Backreference":
      return "it refers back to a group, which JavaScript lets match where the group took no part";
    case "CharacterSet":
      return place.fold ? classUnderFold(node, false) : undefined;
    case "CharacterClass": {
      for (const item of node.body) {
        const reason =
          item.type === "CharacterClass" && place.fold
            ? classUnderFold(item, true)
            : item.type === "CharacterSet" || item.type === "CharacterClass"
              ? fault(item, place)
              : undefined;
        if (reason !== undefined) return reason;
      }
      return place.fold ? classUnderFold(node, false) : undefined;
    }
    default:
      return undefined;
  }
}
