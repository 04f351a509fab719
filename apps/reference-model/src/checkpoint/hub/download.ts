import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import { downloadFile } from "@huggingface/hub";
import { FormatError } from "@x/kernels";
import type { HubFile } from "./metadata.js";

/** Where files are fetched from. */
export interface Remote {
  readonly repo: string;
  readonly commit: string;
  readonly hubUrl?: string;
  readonly accessToken?: string;
}

function hasher({ algorithm, size }: HubFile): Hash {
  if (algorithm === "sha256") return createHash("sha256");
  return createHash("sha1").update(`blob ${size}\0`);
}

const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    (info) => info.size,
    () => 0,
  );

const reasonOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));

/**
 * Fetches a file to `target`, going on with what an earlier try left in `target`.incomplete, and compares its hash before
 * it gets its name.
 *
 * @throws FormatError for a connection that ends early, and for content that is not what the list of files says
 */
export async function download(
  remote: Remote,
  file: HubFile,
  target: string,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { repo, commit, ...access } = remote;
  const where = `${repo}/${file.path}`;
  const partial = `${target}.incomplete`;
  if ((await sizeOf(partial)) > file.size) await rm(partial, { force: true });
  const hash = hasher(file);
  let have = await sizeOf(partial);
  if (have > 0) for await (const chunk of createReadStream(partial)) hash.update(chunk as Uint8Array);
  onBytes(have);
  if (have < file.size) {
    const blob = await downloadFile({ repo, path: file.path, revision: commit, ...access });
    if (!blob) throw new FormatError(where, "is in the server's list, but not on the server");
    if (blob.size !== file.size)
      throw new FormatError(where, `has ${blob.size} bytes; the server's list says ${file.size}`);
    const handle = await open(partial, "a");
    try {
      const rest = have === 0 ? blob : blob.slice(have);
      for await (const chunk of rest.stream() as unknown as AsyncIterable<Uint8Array>) {
        if (have + chunk.length > file.size) throw new Error("more bytes came than the file has");
        await handle.write(chunk);
        hash.update(chunk);
        have += chunk.length;
        onBytes(chunk.length);
      }
    } catch (cause) {
      throw new FormatError(
        where,
        `came to ${have} of ${file.size} bytes (${reasonOf(cause)}); the same command goes on from there`,
        { cause },
      );
    } finally {
      await handle.close();
    }
    if (have < file.size)
      throw new FormatError(
        where,
        `came to ${have} of ${file.size} bytes; the same command goes on from there`,
      );
  }
  const found = hash.digest("hex");
  if (found !== file.hash) {
    await rm(partial, { force: true });
    throw new FormatError(
      where,
      `has the hash ${found}; the server's list says ${file.hash}. What came was removed`,
    );
  }
  // An empty file has no partial one.
  if (file.size === 0) await (await open(partial, "a")).close();
  await rename(partial, target);
}
