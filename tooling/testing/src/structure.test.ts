import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { repository } from "./index.js";

const page = join(repository, "docs/structure.md");
const PICTURE = /<!-- include (\S+) collapse (\S+) -->\n\n```mermaid\n([\s\S]*?)```/g;

/** The picture of the files that match `include`, each shown as what it matches of `collapse`. */
function drawn(include: string, collapse: string): string {
  const tool = join(repository, "node_modules/dependency-cruiser/bin/dependency-cruise.mjs");
  const options = ["--include-only", include, "--collapse", collapse, "--output-type", "mermaid"];
  return execFileSync(process.execPath, [tool, "packages", "apps", ...options], {
    cwd: repository,
    encoding: "utf8",
  });
}

describe("docs/structure.md", () => {
  const text = readFileSync(page, "utf8");
  const pictures = [...text.matchAll(PICTURE)].map(([, include, collapse, held]) => {
    return { include: include!, collapse: collapse!, held: held! };
  });

  it("has its pictures", () => {
    expect(pictures).toHaveLength(4);
  });

  it("shows the imports as they are", { timeout: 300_000 }, () => {
    const now = pictures.map(({ include, collapse }) => drawn(include, collapse));
    if (process.env["UPDATE_STRUCTURE"] !== undefined) {
      let next = 0;
      writeFileSync(
        page,
        text.replace(
          PICTURE,
          (_, include: string, collapse: string) =>
            `<!-- include ${include} collapse ${collapse} -->\n\n\`\`\`mermaid\n${now[next++]!}\`\`\``,
        ),
      );
    } else expect(pictures.map(({ held }) => held)).toEqual(now);
  });
});
