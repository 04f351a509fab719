import { constants } from "node:fs";
import {
  access,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  type FileHandle,
} from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { ConfigError, FormatError } from "@x/kernels";
import { parseJson } from "./json.js";

/**
 * The one place that writes files. A reader, or a process that starts after another was killed, finds what was there
 * before or what is there after, and never a part of it.
 */

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Parse a JSON file. @throws FormatError */
export async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw new FormatError(path, `cannot be read (${reasonOf(cause)})`, { cause });
  }
  return parseJson(path, text);
}

/** A file's bytes, or undefined where there is no such file. @throws FormatError where it cannot be read */
export async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    if (["ENOENT", "ENOTDIR"].includes((cause as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw new FormatError(path, `cannot be read (${reasonOf(cause)})`, { cause });
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or folder",
  ENOTDIR: "a part of the path is not a folder",
  EISDIR: "it is a folder",
  EACCES: "permission is denied",
  EPERM: "permission is denied",
  EROFS: "the file system is read-only",
  ENOSPC: "no space is left on the device",
  EDQUOT: "the quota of disk space is used up",
  EFBIG: "the file would be too large",
  ENAMETOOLONG: "the name is too long",
};

function reasonOf(cause: unknown): string {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  return (code !== undefined && REASONS[code]) || (cause instanceof Error ? cause.message : String(cause));
}

/** Errors of the file system as one line. @throws FormatError */
async function writing<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (FormatError.isInstance(cause)) throw cause;
    throw new FormatError(path, `cannot be written: ${reasonOf(cause)}`, { cause });
  }
}

/** Contents of a file, perhaps piece by piece. */
export type Contents = string | Uint8Array | AsyncIterable<Uint8Array>;

/** Write from where the file's position is. */
async function writeContents(handle: FileHandle, data: Contents): Promise<void> {
  if (typeof data === "string" || data instanceof Uint8Array) await handle.writeFile(data);
  else for await (const piece of data) await handle.writeFile(piece);
}

/** Write a file's contents to the disk and not only to the system's memory. */
async function writeThrough(path: string, data: Contents): Promise<void> {
  const handle = await open(path, "w");
  try {
    await writeContents(handle, data);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Make the names in a folder last: a rename is lost in a power failure otherwise. */
async function syncFolder(folder: string): Promise<void> {
  // Some systems do not open folders; what is lost there is durability, not order.
  const handle = await open(folder, "r").catch(() => undefined);
  try {
    await handle?.sync().catch(() => undefined);
  } finally {
    await handle?.close();
  }
}

const TEMPORARY = ".tmp";

/** Write a file whole or not at all. A device or a pipe (`/dev/stdout`) takes the contents as they are. @throws FormatError */
export async function writeAtomically(path: string, data: Contents): Promise<void> {
  await writing(path, async () => {
    const info = await stat(path).catch(() => undefined);
    if (info && !info.isFile() && !info.isDirectory()) {
      await writeToDevice(path, data);
      return;
    }
    // What a link points to is replaced, and the link stays.
    const target = info ? await realpath(path) : path;
    const temporary = `${target}${TEMPORARY}`;
    try {
      await writeThrough(temporary, data);
      await rename(temporary, target);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    await syncFolder(dirname(target));
  });
}

async function writeToDevice(path: string, data: Contents): Promise<void> {
  const handle = await open(path, "w");
  try {
    await writeContents(handle, data);
  } finally {
    await handle.close();
  }
}

/** A new folder, or a folder's new files, before they are published. */
const STAGED = ".writing";
/** The same from the moment at which they count; what a folder holds of the same names is replaced by them. */
const PUBLISHED = ".written";
/** What shows that a folder can be made or written to; as long as `STAGED`. */
const PROBE = ".probing";
/** Which files those are. */
const LIST = "files.json";

interface PublishedList {
  readonly written: readonly string[];
  readonly removed: readonly string[];
}

export type WriteInto = (name: string, data: Contents) => Promise<void>;

/**
 * Write several files of a folder so that all of them are there, or none: a new folder by one rename, and the files of a
 * folder that is there by one rename of their list, after which `finishPublication` puts each in its place, in this
 * process or in the next one that reads the folder. A file that `replaces` names and that is not written again is
 * removed.
 *
 * @throws FormatError
 */
export async function publish(
  path: string,
  fill: (write: WriteInto) => Promise<void>,
  replaces: (name: string) => boolean = () => false,
): Promise<void> {
  const folder = resolve(path);
  await finishPublication(folder);
  const there = await exists(folder);
  const staged = there ? join(folder, STAGED) : `${folder}${STAGED}`;
  const written: string[] = [];
  try {
    await writing(path, async () => {
      await rm(staged, { recursive: true, force: true });
      await mkdir(staged, { recursive: true });
    });
    await fill(async (name, data) => {
      await writing(join(path, name), () => writeThrough(join(staged, name), data));
      written.push(name);
    });
    await writing(path, async () => {
      if (!there) {
        await syncFolder(staged);
        await rename(staged, folder);
        await syncFolder(dirname(folder));
        return;
      }
      // What a process left that was killed while it wrote one of these files by itself goes too.
      const left = written.map((name) => `${name}${TEMPORARY}`);
      const removed = (await readdir(folder)).filter(
        (name) => left.includes(name) || (replaces(name) && !written.includes(name)),
      );
      await writeThrough(join(staged, LIST), JSON.stringify({ written, removed } satisfies PublishedList));
      await syncFolder(staged);
      await rename(staged, join(folder, PUBLISHED));
      await syncFolder(folder);
    });
  } catch (error) {
    await rm(staged, { recursive: true, force: true });
    throw error;
  }
  if (there) await finishPublication(folder);
}

/** A file that is missing has been moved already, by a process that was stopped or by one that reads the folder now. */
function unlessMoved(cause: NodeJS.ErrnoException): void {
  if (cause.code !== "ENOENT") throw cause;
}

/** Put in place what a process published and was stopped before it had moved all of it. @throws FormatError */
export async function finishPublication(folder: string): Promise<void> {
  const from = join(folder, PUBLISHED);
  if (!(await exists(from))) return;
  const list = join(from, LIST);
  await writing(folder, async () => {
    if (await exists(list)) {
      const { written, removed } = (await readJson(list)) as PublishedList;
      for (const name of written) await rename(join(from, name), join(folder, name)).catch(unlessMoved);
      for (const name of removed) await rm(join(folder, name), { force: true });
      await syncFolder(folder);
    }
    await rm(from, { recursive: true, force: true });
  });
}

export type OutputKind = "file" | "folder";

/**
 * Check that a file or folder can be written, before the work whose result it is to hold. A folder is made with the
 * folders above it; a file needs its folder.
 *
 * @throws ConfigError naming the option, the path and the reason
 */
export async function expectWritable(option: string, path: string, kind: OutputKind): Promise<void> {
  const fail = (reason: string): never => {
    throw new ConfigError(option, reason);
  };
  if (path === "") fail(`is empty; it must name a ${kind}`);
  const info = await stat(path).catch(() => undefined);
  if (kind === "file" && info?.isDirectory()) fail(`${path} is a folder; it must be a file`);
  if (kind === "folder" && info && !info.isDirectory()) fail(`${path} is a file; it must be a folder`);
  if (kind === "file" && info && !info.isFile()) return;
  let folder = info && kind === "file" ? dirname(await realpath(path)) : resolve(path);
  // What is not there yet, whose names the file system may not take.
  const names: string[] = [];
  if (!info && kind === "file") {
    names.push(`${basename(folder)}${TEMPORARY}`);
    folder = dirname(folder);
    if (!(await exists(folder))) fail(`${path} cannot be written: the folder ${folder} does not exist`);
  }
  while (!(await exists(folder)) && dirname(folder) !== folder) {
    names.push(`${basename(folder)}${PROBE}`);
    folder = dirname(folder);
  }
  if (!(await stat(folder)).isDirectory()) fail(`${path} cannot be written: ${folder} is not a folder`);
  for (const name of names.length > 0 ? names : [PROBE]) {
    const probe = join(folder, name);
    try {
      if (info && kind === "file") await access(path, constants.W_OK);
      // A page: a disk that is full takes an empty file and nothing more.
      await writeThrough(probe, new Uint8Array(4096));
    } catch (cause) {
      fail(`${path} cannot be written: ${reasonOf(cause)}`);
    } finally {
      await rm(probe, { force: true }).catch(() => undefined);
    }
  }
}

/** Make a folder and those above it. @throws FormatError */
export async function makeFolder(path: string): Promise<void> {
  await writing(path, () => mkdir(path, { recursive: true }));
}

/** Remove a folder or a file, if there is one. @throws FormatError */
export async function remove(path: string): Promise<void> {
  await writing(path, () => rm(path, { recursive: true, force: true }));
}
