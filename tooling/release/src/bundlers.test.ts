import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { nodeResolve } from "@rollup/plugin-node-resolve";
import { build, type BuildOptions } from "esbuild";
import { rollup } from "rollup";
import { afterAll, beforeAll, expect, it } from "vitest";
import { executeOrThrow, publicFolders, repository, tool } from "./workspace.js";

/** What every bundler is given: a program that is in the workspace and resolves the packages as an application does. */
const ENTRY = join(repository, "tooling/release/dist/consumer/exercise.js");
const folder = mkdtempSync(join(tmpdir(), "x-bundlers-"));

beforeAll(async () => {
  await executeOrThrow(tool("tsc"), ["-b", ...publicFolders(), "tooling/release"], { cwd: repository });
}, 180_000);

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

async function byEsbuild(options: BuildOptions): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [ENTRY],
    bundle: true,
    format: "esm",
    write: false,
    logLevel: "silent",
    external: ["@huggingface/tokenizers"],
    ...options,
  });
  return outputFiles![0]!.text;
}

async function byRollup(): Promise<string> {
  const bundle = await rollup({
    input: ENTRY,
    plugins: [nodeResolve()],
    external: ["@huggingface/tokenizers"],
    onwarn: () => undefined,
  });
  const { output } = await bundle.generate({ format: "es", inlineDynamicImports: true });
  return output[0].code;
}

for (const [name, bundle] of Object.entries({
  "Rollup at its defaults": byRollup,
  "esbuild --platform=neutral": () => byEsbuild({ platform: "neutral" }),
  "esbuild --platform=browser --minify": () => byEsbuild({ platform: "browser", minify: true }),
}))
  it(`${name} takes the browser's file, and nothing of Node or Dawn`, async () => {
    const code = await bundle();
    expect(code).toMatch(/navigator\?\.gpu/);
    expect(code).not.toMatch(/["']webgpu["']|["']node:|\bfs\/promises|\brequire\(/);
  }, 60_000);

it("a minified bundle keeps the names of errors, of every package", async () => {
  const entry = join(folder, "entry.js");
  writeFileSync(
    entry,
    ["kernels", "tokenizer"]
      .map(
        (name) =>
          `export * as ${name} from ${JSON.stringify(join(repository, "packages", name, "dist/index.js"))};`,
      )
      .join("\n"),
  );
  const file = join(folder, "bundle.mjs");
  writeFileSync(file, await byEsbuild({ entryPoints: [entry], platform: "browser", minify: true }));
  const packages = (await import(file)) as Record<string, Record<string, unknown>>;
  for (const [name, exported] of Object.entries(packages)) {
    const errors = Object.entries(exported).filter(
      ([, value]) => typeof value === "function" && value.prototype instanceof Error,
    ) as [string, new (who: string, message: string) => Error][];
    expect(errors.length, name).toBeGreaterThan(0);
    expect(errors.map(([, ErrorClass]) => new ErrorClass("who", "text").name)).toEqual(
      errors.map(([as]) => as),
    );
  }
});
