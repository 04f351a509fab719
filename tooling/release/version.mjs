// `npm run version`: changesets become versions and changelogs, in the workspace at the current folder.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const UNCHANGED = "Nothing has changed in this package: all packages carry one version.";

function run(program, args) {
  const { status, error } = spawnSync(program, args, { stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

/** The version that @x/kernels names at run time is the one in its manifest. */
function syncVersion() {
  const { version } = JSON.parse(readFileSync("packages/kernels/package.json", "utf8"));
  const file = "packages/kernels/src/base/abi.ts";
  const after = readFileSync(file, "utf8").replace(/^(export const VERSION = )"[^"]*";$/m, `$1"${version}";`);
  if (!after.includes(`VERSION = "${version}"`)) throw new Error(`${file} has no VERSION`);
  writeFileSync(file, after);
}

/** A package that is released only because the others are has a heading in its changelog, and no text: say so. */
function fillChangelogs() {
  for (const name of readdirSync("packages")) {
    const file = join("packages", name, "CHANGELOG.md");
    if (!existsSync(file)) continue;
    const before = readFileSync(file, "utf8");
    const after = before.replace(/^(## \S+)\n\s*(?=^## |(?![\s\S]))/gm, `$1\n\n${UNCHANGED}\n\n`);
    if (after !== before) writeFileSync(file, `${after.trimEnd()}\n`);
  }
}

// With a peer range of ^1.0.0, 1.1.0-next.0 is outside it: each minor of kernels would be a major of all packages.
if (existsSync(".changeset/pre.json")) {
  console.error(
    "version: .changeset/pre.json puts changesets into pre-release mode, which would make every package a new major. " +
      "Leave it by `npx changeset pre exit` and publish under a dist-tag in its place (CONTRIBUTING.md, Release).",
  );
  process.exit(1);
}
run(process.execPath, [fileURLToPath(import.meta.resolve("@changesets/cli/bin.js")), "version"]);
syncVersion();
fillChangelogs();
