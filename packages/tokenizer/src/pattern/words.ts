import { parse, type AlternativeElementNode, type RegexNode } from "oniguruma-parser/parser";
import { traverse } from "oniguruma-parser/traverser";

/** The dialect's word characters: letters, marks, decimal digits, connectors, and the digits of Latin-1's superscripts and fractions. */
const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

const element = (pattern: string): AlternativeElementNode => parse(pattern).body[0]!.body[0]!;
/** A class of word characters, or of all others. */
const wordClass = (negate: boolean): AlternativeElementNode => element(`[${negate ? "^" : ""}${WORD}]`);
const boundary = (negate: boolean): AlternativeElementNode => {
  const is = `[${WORD}]`;
  const inside = `(?<=${is})(?=${is})|(?<!${is})(?!${is})`;
  const border = `(?<=${is})(?!${is})|(?<!${is})(?=${is})`;
  return element(`(?:${negate ? inside : border})`);
};

/**
 * Write the word characters of a pattern (\w, \p{Word}, \b) as a class: the translation takes other characters for
 * them. True if there were any.
 */
export function spellOutWords(tree: RegexNode): boolean {
  let found = false;
  traverse(tree, {
    CharacterSet({ node, replaceWith }) {
      if (node.kind !== "word") return;
      found = true;
      replaceWith(wordClass(node.negate === true));
    },
    Assertion({ node, replaceWith }) {
      if (node.kind !== "word_boundary") return;
      found = true;
      replaceWith(boundary(node.negate === true));
    },
  });
  return found;
}
