import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { VERSION } from "@x/kernels";
import { afterEach, describe, expect, it } from "vitest";
import {
  execute,
  executeOrThrow,
  publicFolders,
  readManifest,
  repository,
  tool,
  workspaceFolders,
} from "./workspace.js";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

type Change = Readonly<Record<string, "patch" | "minor" | "major">>;

/** A copy of the workspace's manifests at `version`, in a repository of its own, with one changeset. */
async function workspaceAt(version: string, change: Change): Promise<string> {
  const root = mkdtempSync(join(tmpdir(), "x-changesets-"));
  folders.push(root);
  for (const file of [
    "package.json",
    "pnpm-workspace.yaml",
    ".changeset/config.json",
    "packages/kernels/src/base/abi.ts",
  ]) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    cpSync(join(repository, file), join(root, file));
  }
  for (const folder of workspaceFolders()) {
    mkdirSync(join(root, folder), { recursive: true });
    const manifest = { ...readManifest(join(repository, folder)), version };
    writeFileSync(join(root, folder, "package.json"), JSON.stringify(manifest, null, 2));
  }
  const header = Object.entries(change).map(([name, bump]) => `"${name}": ${bump}`);
  writeFileSync(join(root, ".changeset/change.md"), `---\n${header.join("\n")}\n---\n\nA change.\n`);
  const git = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"];
  await executeOrThrow("git", ["init", "-q", "-b", "main"], { cwd: root });
  await executeOrThrow("git", ["add", "-A"], { cwd: root });
  await executeOrThrow("git", [...git, "commit", "-q", "-m", "start"], { cwd: root });
  return root;
}

interface Released {
  readonly version: string;
  /** The peer range of kernels. */
  readonly kernels: string | undefined;
  readonly changelog: string;
}

function released(root: string): Record<string, Released> {
  return Object.fromEntries(
    publicFolders().map((folder) => {
      const at = join(root, folder);
      const { name, version, peerDependencies } = readManifest(at);
      const file = join(at, "CHANGELOG.md");
      const changelog = existsSync(file) ? readFileSync(file, "utf8") : "";
      return [name, { version, kernels: peerDependencies?.["@x/kernels"], changelog }];
    }),
  );
}

const VERSION_SCRIPT = join(repository, "tooling/release/version.mjs");

/** What the first step of `npm run version` makes of a change. */
async function release(version: string, change: Change): Promise<Record<string, Released>> {
  const root = await workspaceAt(version, change);
  await executeOrThrow(process.execPath, [VERSION_SCRIPT], { cwd: root });
  const result = released(root);
  expect(readFileSync(join(root, "packages/kernels/src/base/abi.ts"), "utf8")).toContain(
    `VERSION = "${result["@x/kernels"]!.version}"`,
  );
  return result;
}

/** Every package has the version; every peer range takes kernels of that version. */
function expectAll(result: Awaited<ReturnType<typeof release>>, version: string): void {
  for (const [name, after] of Object.entries(result)) {
    expect(after.version, name).toBe(version);
    if (name !== "@x/kernels" && name !== "@x/tokenizer") expect(after.kernels, name).toBe("workspace:^");
  }
}

it("the version that kernels names at run time is its manifest's", () => {
  expect(VERSION).toBe(readManifest(join(repository, "packages/kernels")).version);
});

it("all packages that are released together have one version", () => {
  const versions = publicFolders().map((folder) => readManifest(join(repository, folder)).version);
  expect(new Set(versions).size, versions.join(", ")).toBe(1);
});

describe("what `npm run version` makes of a change", () => {
  it("a minor of kernels is a minor of every package, and no major of its dependants", async () => {
    const result = await release("1.0.0", { "@x/kernels": "minor" });
    expectAll(result, "1.1.0");
    for (const [name, { changelog }] of Object.entries(result))
      expect(changelog, name).toMatch(
        name === "@x/kernels"
          ? /^# @x\/kernels\n\n## 1\.1\.0\n\n### Minor Changes\n\n[\s\S]*A change\.\n$/
          : /^# \S+\n\n## 1\.1\.0\n\nNothing has changed in this package: all packages carry one version\.\n$/,
      );
  });

  it("a patch of kernels is a patch of every package", async () => {
    expectAll(await release("1.0.0", { "@x/kernels": "patch" }), "1.0.1");
  });

  it("a major of kernels is a major of every package", async () => {
    expectAll(await release("1.4.2", { "@x/kernels": "major" }), "2.0.0");
  });

  it("a minor of one topic package keeps the others' majors", async () => {
    expectAll(await release("1.1.0", { "@x/norm": "minor" }), "1.2.0");
  });

  it("text that stands in a changelog stays, and no heading stays empty", async () => {
    const root = await workspaceAt("1.0.0", { "@x/norm": "minor" });
    const ffn = join(root, "packages/ffn/CHANGELOG.md");
    writeFileSync(ffn, "# @x/ffn\n\n## 1.0.0\n\n### Major Changes\n\n- First release.\n");
    await executeOrThrow(process.execPath, [VERSION_SCRIPT], { cwd: root });
    expect(readFileSync(ffn, "utf8")).toBe(
      "# @x/ffn\n\n## 1.1.0\n\nNothing has changed in this package: all packages carry one version.\n\n" +
        "## 1.0.0\n\n### Major Changes\n\n- First release.\n",
    );
  });
});

describe("pre-release mode", () => {
  it("is not on here", () => {
    expect(existsSync(join(repository, ".changeset/pre.json"))).toBe(false);
  });

  it("would make a minor of kernels a major of all packages, and is refused before anything is written", async () => {
    const root = await workspaceAt("1.0.0", { "@x/kernels": "minor" });
    await executeOrThrow(tool("changeset"), ["pre", "enter", "next"], { cwd: root });
    const refused = await execute(process.execPath, [VERSION_SCRIPT], { cwd: root });
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^version: \.changeset\/pre\.json .* changeset pre exit/);
    expectAll(released(root), "1.0.0");
    // What the refusal is there for: the day this fails, changesets has learnt better.
    await executeOrThrow(tool("changeset"), ["version"], { cwd: root });
    expectAll(released(root), "2.0.0-next.0");
  });
});
