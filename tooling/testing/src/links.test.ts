import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { repository } from "./index.js";

/** The pages of a folder and of those below it. */
function pagesOf(folder: string): string[] {
  return readdirSync(join(repository, folder)).flatMap((name) => {
    const path = join(folder, name);
    if (["node_modules", "dist", "CHANGELOG.md"].includes(name) || name.startsWith(".")) return [];
    if (statSync(join(repository, path)).isDirectory()) return pagesOf(path);
    return name.endsWith(".md") ? [path] : [];
  });
}

const pages = pagesOf("");

/** The text of a page without its code. */
const prose = (path: string): string =>
  readFileSync(join(repository, path), "utf8").replace(/^```[\s\S]*?^```/gm, "");

/** The anchors that a page's headings have where it is shown. */
const anchors = (path: string): string[] =>
  [...prose(path).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(" ", "-"),
  );

/** What is wrong with the links of a page to files of the repository and to headings. */
function faults(page: string): string[] {
  return [...prose(page).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link]) => {
    if (/^[a-z]+:/.test(link!)) return [];
    const [path, anchor] = link!.split("#") as [string, string?];
    const target = path === "" ? page : join(dirname(page), path);
    if (!existsSync(join(repository, target))) return [`${link!}: there is no ${target}`];
    const line = /^L(\d+)$/.exec(anchor ?? "")?.[1];
    if (line !== undefined) {
      const lines = readFileSync(join(repository, target), "utf8").split("\n").length;
      return Number(line) <= lines ? [] : [`${link!}: ${target} has ${lines} lines`];
    }
    return anchor === undefined || !target.endsWith(".md") || anchors(target).includes(anchor)
      ? []
      : [`${link!}: ${target} has no such heading`];
  });
}

describe("links", () => {
  it.each(pages)("%s: every link to a file, a line or a heading opens", (page) => {
    expect(faults(page)).toEqual([]);
  });
});
