import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { examples, outputFaults } from "./examples.js";
import { repository } from "./index.js";

const run = promisify(execFile);
const folder = join(repository, "node_modules/.cache/x-readme");
const readmes = [
  "README.md",
  ...readdirSync(join(repository, "packages")).map((name) => `packages/${name}/README.md`),
];

/** What a strict compiler says of the examples. */
function mistakes(path: string, blocks: readonly string[]): string[] {
  const files = blocks.map((block, i) => {
    const file = join(folder, `${path.replace(/\W/g, "_")}_${i}.mts`);
    writeFileSync(file, block);
    return file;
  });
  const program = ts.createProgram(files, {
    strict: true,
    noUncheckedIndexedAccess: true,
    noEmit: true,
    skipLibCheck: true,
    module: ts.ModuleKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2023.d.ts", "lib.dom.d.ts", "lib.esnext.disposable.d.ts"],
    types: ["node"],
  });
  return ts
    .getPreEmitDiagnostics(program)
    .map(
      ({ file, messageText }) =>
        `${file?.fileName ?? path}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`,
    );
}

describe("README examples", () => {
  it("are there for every package", () => {
    for (const path of readmes) expect(existsSync(join(repository, path)), path).toBe(true);
  });

  for (const path of readmes)
    it(`${path}: its TypeScript compiles strictly and prints against the build what it says`, async () => {
      const blocks = examples(join(repository, path));
      expect(blocks.length).toBeGreaterThan(0);
      mkdirSync(folder, { recursive: true });
      expect(mistakes(path, blocks)).toEqual([]);
      for (const [i, block] of blocks.entries()) {
        const { outputText } = ts.transpileModule(block, {
          compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
        });
        const file = join(folder, `${path.replace(/\W/g, "_")}_${i}.mjs`);
        writeFileSync(file, outputText);
        const { stdout } = await run(process.execPath, [file], { cwd: repository, timeout: 120_000 });
        expect(outputFaults(block, stdout), `example ${i + 1}`).toEqual([]);
      }
    });
});
