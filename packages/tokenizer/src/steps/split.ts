/** What happens to a match of a Split pre-tokenizer. */
export type SplitBehavior = "Isolated" | "Removed" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";
export const SPLIT_BEHAVIORS: readonly SplitBehavior[] = [
  "Isolated",
  "Removed",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
];

interface Part {
  readonly text: string;
  readonly match: boolean;
}

/** A text as its matches and what lies between them. An empty match cuts, unless it follows a match at once. */
function parts(text: string, pattern: RegExp, invert: boolean): Part[] {
  const out: Part[] = [];
  let at = 0;
  let end = -1;
  for (const { 0: found, index } of text.matchAll(pattern)) {
    if (found === "" && index === end) continue;
    if (index > at) out.push({ text: text.slice(at, index), match: invert });
    out.push({ text: found, match: !invert });
    at = end = index + found.length;
  }
  if (at < text.length) out.push({ text: text.slice(at), match: invert });
  return out;
}

/** Join a part to the one before it where the rule says so. */
function joined(list: readonly Part[], joins: (part: Part, previous: Part) => boolean): string[] {
  const out: string[] = [];
  list.forEach((part, i) => {
    const previous = list[i - 1];
    if (previous !== undefined && joins(part, previous)) out.push((out.pop() ?? "") + part.text);
    else out.push(part.text);
  });
  return out;
}

/** Cut a text at the matches of a pattern; with `invert` at what lies between them. */
export function split(text: string, pattern: RegExp, behavior: SplitBehavior, invert = false): string[] {
  const list = parts(text, pattern, invert);
  const words = ((): string[] => {
    switch (behavior) {
      case "Isolated":
        return list.map((part) => part.text);
      case "Removed":
        return list.filter((part) => !part.match).map((part) => part.text);
      case "MergedWithPrevious":
        return joined(list, (part, previous) => part.match && !previous.match);
      case "MergedWithNext":
        return joined(list, (part, previous) => previous.match && !part.match);
      case "Contiguous":
        return joined(list, (part, previous) => part.match === previous.match);
    }
  })();
  return words.filter((word) => word !== "");
}
