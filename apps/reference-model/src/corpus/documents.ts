import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError, FormatError } from "@x/kernels";

async function readText(path: string): Promise<string> {
  const bytes = await readFile(path);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new FormatError(path, "is not UTF-8 text", { cause });
  }
}

/** Documents of a UTF-8 text file (separated by empty lines), or of all files of a folder in order of their names. */
export async function readDocuments(path: string): Promise<string[]> {
  const info = await stat(path).catch((cause: unknown) => {
    throw new FormatError(path, "cannot be read; give a text file or a folder of them", { cause });
  });
  const files = info.isDirectory()
    ? (await readdir(path, { recursive: true })).sort().map((name) => join(path, name))
    : [path];
  const documents: string[] = [];
  for (const file of files) {
    if (!(await stat(file)).isFile()) continue;
    for (const text of (await readText(file)).split(/\r?\n\s*\r?\n/))
      if (text.trim() !== "") documents.push(text.trim());
  }
  if (documents.length === 0) throw new ConfigError(path, "holds no text");
  return documents;
}
