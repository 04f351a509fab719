import { parse, type Node } from "oniguruma-parser/parser";

/** Characters, classes and ranges of them, and repeats: what JavaScript reads as Oniguruma does. */
function plain(node: Node): boolean {
  switch (node.type) {
    case "Regex":
      return !node.flags.ignoreCase && !node.flags.extended && node.body.every(plain);
    case "Alternative":
    case "CharacterClass":
      return !(node.type === "CharacterClass" && node.kind !== "union") && node.body.every(plain);
    case "Group":
      return node.atomic !== true && node.flags === undefined && node.body.every(plain);
    case "Quantifier":
      return node.kind !== "possessive" && node.body.type !== "Quantifier" && plain(node.body);
    case "Character":
      return true;
    case "CharacterClassRange":
      return true;
    default:
      return false;
  }
}

/** True for a pattern that means the same in JavaScript and in Oniguruma's dialect. */
export function isPlain(pattern: string): boolean {
  try {
    return plain(parse(pattern)) && !pattern.includes("{,") && !/[[\]]\[/.test(pattern);
  } catch {
    return false;
  }
}
