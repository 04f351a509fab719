import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { expect, it } from "vitest";
import { repository } from "./index.js";

it("every package's declarations compile strictly with the libraries of ES2022 and without skipLibCheck", () => {
  const folder = join(repository, "node_modules/.cache/x-declarations");
  mkdirSync(folder, { recursive: true });
  const entries = readdirSync(join(repository, "packages")).flatMap((name) => {
    const manifest = JSON.parse(readFileSync(join(repository, "packages", name, "package.json"), "utf8")) as {
      name: string;
      exports: Record<string, { types?: string } | string>;
    };
    return Object.entries(manifest.exports)
      .filter(([, entry]) => typeof entry !== "string" && entry.types !== undefined)
      .map(([path]) => manifest.name + path.slice(1));
  });
  expect(entries.length).toBeGreaterThan(6);
  const file = join(folder, "consumer.mts");
  writeFileSync(
    file,
    entries
      .map((entry, i) => `import * as p${i} from "${entry}";\nexport type T${i} = typeof p${i};`)
      .join("\n"),
  );
  const program = ts.createProgram([file], {
    strict: true,
    noEmit: true,
    skipLibCheck: false,
    module: ts.ModuleKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    types: [],
  });
  const said = ts
    .getPreEmitDiagnostics(program)
    .map(
      ({ file: where, messageText }) =>
        `${where?.fileName ?? ""}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`,
    );
  expect(said).toEqual([]);
});
