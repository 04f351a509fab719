import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { VERSION } from "@x/kernels";
import { afterEach, describe, expect, it } from "vitest";
import {
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

/** Versions and peer ranges after `changeset version` on a copy of the workspace's manifests at `version`. */
async function release(
  version: string,
  change: Readonly<Record<string, "patch" | "minor" | "major">>,
): Promise<Record<string, { version: string; kernels: string | undefined; changelog: string | undefined }>> {
  const root = mkdtempSync(join(tmpdir(), "x-changesets-"));
  folders.push(root);
  for (const file of ["package.json", "pnpm-workspace.yaml", ".changeset/config.json"]) {
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
  await executeOrThrow(tool("changeset"), ["version"], { cwd: root });
  return Object.fromEntries(
    publicFolders().map((folder) => {
      const at = join(root, folder);
      const { name, version: now, peerDependencies } = readManifest(at);
      const changelog = readdirSync(at).includes("CHANGELOG.md")
        ? readFileSync(join(at, "CHANGELOG.md"), "utf8")
        : undefined;
      return [name, { version: now, kernels: peerDependencies?.["@x/kernels"], changelog }];
    }),
  );
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

describe("what `changeset version` makes of a change", () => {
  it("a minor of kernels is a minor of every package, and no major of its dependants", async () => {
    const result = await release("1.0.0", { "@x/kernels": "minor" });
    expectAll(result, "1.1.0");
    expect(result["@x/kernels"]?.changelog).toMatch(/## 1\.1\.0\s+### Minor Changes[\s\S]*A change\./);
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
});
