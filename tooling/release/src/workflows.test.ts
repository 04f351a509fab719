import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { publicFolders, readManifest, repository, workspaceFolders } from "./workspace.js";

const folder = join(repository, ".github/workflows");
const root = readManifest(repository) as unknown as { packageManager: string };

describe("workflows", () => {
  for (const file of readdirSync(folder)) {
    const text = readFileSync(join(folder, file), "utf8");

    it(`${file}: actions are pinned by commit, with their version beside it`, () => {
      const uses = [...text.matchAll(/^\s*(?:- )?uses: (.*)$/gm)].map((m) => m[1]!);
      expect(uses.length).toBeGreaterThan(0);
      for (const use of uses) expect(use).toMatch(/^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
    });

    it(`${file}: may only read, but for jobs that say more, and leaves no credentials in a checkout`, () => {
      expect(text).toMatch(/^permissions:\n {2}contents: read$/m);
      expect(text.match(/actions\/checkout@/g)?.length).toBe(
        text.match(/persist-credentials: false/g)?.length,
      );
    });

    it(`${file}: an expression stands in no shell command`, () => {
      for (const [, command] of text.matchAll(/^\s*(?:- )?run: (.*)$/gm))
        expect(command).not.toContain("${{");
    });

    it(`${file}: pnpm is the pinned one`, () => {
      for (const [, version] of text.matchAll(/pnpm@([\d.]+)/g))
        expect(`pnpm@${version!}`).toBe(root.packageManager);
    });
  }

  it("checks run on the oldest Node that is promised, and on the newest", () => {
    const text = readFileSync(join(folder, "check.yml"), "utf8");
    const { engines } = readManifest(repository) as unknown as { engines: { node: string } };
    expect(text).toContain(`node: ["${engines.node.replace(">=", "")}", "24"]`);
  });

  it("provenance is asked for by the workflow that publishes, and by no manifest: by hand there is none to prove", () => {
    for (const folder of publicFolders()) {
      const manifest: Record<string, unknown> = { ...readManifest(join(repository, folder)) };
      expect(manifest["publishConfig"], folder).toEqual({ access: "public" });
    }
    expect(existsSync(join(repository, ".npmrc"))).toBe(false);
    const publish = readFileSync(join(folder, "release.yml"), "utf8").split(/^ {2}publish:$/m)[1];
    expect(publish).toMatch(/^ {6}id-token: write$/m);
    expect(publish).toMatch(
      /- run: npm run release\n {8}env:\n(?: {10}.*\n)* {10}NPM_CONFIG_PROVENANCE: "true"\n/,
    );
  });

  it("CONTRIBUTING rolls back every package that is published", () => {
    const text = readFileSync(join(repository, "CONTRIBUTING.md"), "utf8");
    const names = /^for name in (.*); do$/m
      .exec(text)?.[1]
      ?.split(" ")
      .map((name) => `@x/${name}`);
    expect(names?.sort()).toEqual(
      publicFolders()
        .map((folder) => readManifest(join(repository, folder)).name)
        .sort(),
    );
  });

  it("`npm run pack`, which the README names, packs what is published", () => {
    const { scripts } = readManifest(repository) as unknown as { scripts: Record<string, string> };
    expect(scripts["pack"]).toMatch(
      / pnpm --recursive --filter "\.\/packages\/\*" pack --pack-destination tarballs$/,
    );
    expect(publicFolders()).toEqual(workspaceFolders().filter((path) => path.startsWith("packages/")));
  });
});
