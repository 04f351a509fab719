import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { repository } from "./index.js";

/** Phrases that a reader has to decode, and what to write for each. */
const banned: readonly (readonly [phrase: RegExp, instead: string])[] = [
  [
    /(?<!there )\b(is|are) no (function|integer|list|memory|multiple|number|op|rounding|tensor|token)s?\b/i,
    "is not a",
  ],
  [/\b(come|comes|go|goes) by\b/i, "the verb that is meant: is named, is a multiple of, uses"],
  [/\bCPU renders\b/i, "software adapter"],
  [/\bcosts? (no )?figures\b/i, "loses precision"],
  [/\bdigits kept\b|\b(keeps?|loses?) (its|the|no|fewer) digits\b|\b(too few|no) digits\b/i, "precision"],
  [/\b(gives?|gave) back\b/i, "returns"],
  [/\bplaces count on\b/i, "indices run over"],
  [/\bchange places\b/i, "say which is used from where"],
  [/\bis a guess\b/i, "not tuned"],
  [/\bstays? whole\b/i, "is not split"],
  [/\bwho sees whom\b/i, "which keys a query sees"],
  [/\bwho works on\b/i, "which invocations compute"],
  [/\bthe last are\b/i, "name them"],
  [/\bmeets? no other\b/i, "writes distinct elements"],
  [/\bleast limits\b/i, "the limits that WebGPU guarantees"],
  [/\bmeasured past\b/i, "say what is done instead"],
  [/\btold of\b/i, "receives"],
  [/\bfirst touch\b/i, "first dispatch"],
  [/\bwhat there is of\b/i, "the entries that are there"],
  [/\bjoins the window\b/i, "narrows the window"],
  [/\bon trust\b/i, "is not checked"],
  [/\bcomposition's input\b/i, "say what is checked"],
  [/\bwithout being told\b/i, "say how it is known"],
  [/\binto the kernels' terms\b/i, "derives variants, bindings and parameters"],
  [/\bborrows\b/i, "calls, or uses"],
  [/\bsave some\b/i, "but a few, named"],
  [/\bone is none\b/i, "is ignored"],
];

/** The sources and pages below a folder, of which changelogs are the work of a tool. */
function filesOf(folder: string): string[] {
  return readdirSync(join(repository, folder)).flatMap((name) => {
    const path = join(folder, name);
    if (["node_modules", "dist", "CHANGELOG.md"].includes(name) || name.startsWith(".")) return [];
    if (statSync(join(repository, path)).isDirectory()) return filesOf(path);
    return /\.(ts|mjs|md)$/.test(name) && name !== "language.test.ts" ? [path] : [];
  });
}

/** The places of the comments of a source. */
function comments(text: string): readonly ts.TextRange[] {
  const found = new Map<number, ts.TextRange>();
  const file = ts.createSourceFile("source.ts", text, ts.ScriptTarget.Latest, true);
  const visit = (node: ts.Node): void => {
    const around = [
      ...(ts.getLeadingCommentRanges(text, node.getFullStart()) ?? []),
      ...(ts.getTrailingCommentRanges(text, node.getEnd()) ?? []),
    ];
    for (const range of around) found.set(range.pos, range);
    for (const child of node.getChildren(file)) visit(child);
  };
  visit(file);
  return [...found.values()];
}

const blank = (text: string): string => text.replace(/[^\n]/g, " ");

/** The prose of a file in its place: the comments of a source; of a page all but its code. */
function prose(path: string): string {
  const text = readFileSync(join(repository, path), "utf8");
  if (path.endsWith(".md")) return text.replace(/^```[\s\S]*?^```|`[^`\n]*`/gm, blank);
  let out = "";
  for (const { pos, end } of [...comments(text)].sort((a, b) => a.pos - b.pos)) {
    if (pos < out.length) continue;
    out += blank(text.slice(out.length, pos)) + text.slice(pos, end);
  }
  return out;
}

/** `line: phrase; what to write instead` of each banned phrase, over the ends of lines too. */
function faults(path: string): string[] {
  const text = prose(path).replace(/\n[ \t]*\*(?!\/)/g, (end) => "\n" + " ".repeat(end.length - 1));
  return banned.flatMap(([phrase, instead]) => {
    const pattern = new RegExp(phrase.source.replaceAll(" ", "\\s+"), "gi");
    return [...text.matchAll(pattern)].map((match) => {
      const line = text.slice(0, match.index).split("\n").length;
      return `${path}:${line}: "${match[0].replace(/\s+/g, " ")}"; write: ${instead}`;
    });
  });
}

describe("language", () => {
  it.each(["packages", "apps", "tooling", "docs"])(
    "%s: comments and pages have no phrase to decode",
    (folder) => {
      expect(filesOf(folder).flatMap(faults)).toEqual([]);
    },
    60_000,
  );

  it("the pages at the root have none either", () => {
    expect(["README.md", "CONTRIBUTING.md"].flatMap(faults)).toEqual([]);
  });

  it("every file of WGSL says first what an invocation owns, or that it is a fragment", () => {
    const silent = filesOf("packages").filter((path) => {
      if (!path.endsWith(".wgsl.ts")) return false;
      const header = /\/\*(?!\*)[\s\S]*?\*\//.exec(readFileSync(join(repository, path), "utf8"))?.[0] ?? "";
      return !/fragment/i.test(header) && !(/invocation/i.test(header) && /grid|workgroup/i.test(header));
    });
    expect(silent).toEqual([]);
  });
});
