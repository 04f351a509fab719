import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { FormatError } from "@x/kernels";
import { fileSource } from "./byte_source.js";
import { exists, finishPublication, readIfThere } from "./files.js";
import { folderSource } from "./folder.js";
import { ggufSource } from "./gguf/gguf_source.js";
import { BESIDE } from "./names.js";
import type { ModelSource } from "./stored.js";

const GGUF = /\.gguf$/i;

/** The .gguf file that a path names, or those that a folder without config.json holds. */
async function ggufFiles(path: string): Promise<string[]> {
  const info = await stat(path).catch(() => undefined);
  if (!info) return [];
  if (!info.isDirectory()) return GGUF.test(path) ? [path] : [];
  await finishPublication(path);
  const names = await readdir(path);
  if (names.includes("config.json")) return [];
  return names
    .filter((name) => GGUF.test(name))
    .sort()
    .map((name) => join(path, name));
}

/** A folder of the disk. */
function diskFolder(path: string): ModelSource {
  return {
    ...folderSource({
      path,
      pathOf: (name) => join(path, name),
      read: (name) => readIfThere(join(path, name)),
      open: (name) => fileSource(join(path, name)),
    }),
    files: async () => (await readdir(path)).filter((name) => BESIDE.test(name)),
  };
}

/** A GGUF file of the disk. */
const diskGguf = (path: string): ModelSource =>
  ggufSource({ path, name: basename(path), open: () => fileSource(path) });

/**
 * Decides what a model's path is: a Hugging Face folder (it holds config.json), a folder with one .gguf file, or that
 * file.
 *
 * @throws FormatError that says what was looked for
 */
export async function modelSource(path: string): Promise<ModelSource> {
  const files = await ggufFiles(path);
  if (files.length === 1) return diskGguf(files[0]!);
  const fail = (found: string): never => {
    throw new FormatError(
      path,
      `${found}; a model is a folder with config.json, a folder with one .gguf file, or that file`,
    );
  };
  if (files.length > 1)
    fail(`holds ${files.length} .gguf files (${files.map((f) => basename(f)).join(", ")})`);
  const info = await stat(path).catch(() => undefined);
  if (!info) fail("there is no such file or folder");
  if (!info!.isDirectory()) fail("is a file without the ending .gguf");
  if (!(await exists(join(path, "config.json")))) fail("holds neither config.json nor a .gguf file");
  return diskFolder(path);
}

/** What holds the files beside a model, of a path that need not hold a model: the tokenizer of a training to come. */
export async function filesSource(path: string): Promise<Pick<ModelSource, "files" | "file">> {
  const files = await ggufFiles(path);
  return files.length === 1 ? diskGguf(files[0]!) : diskFolder(path);
}
