import { FormatError } from "@x/kernels";

/** A file of a repository, at one commit. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** What names its content in the cache: SHA-256 of a large file, Git's SHA-1 of a small one. */
  readonly hash: string;
  readonly algorithm: "sha256" | "git";
}

const COMMIT = /^[0-9a-f]{40}$/;
const SHA256 = /^[0-9a-f]{64}$/;

type Json = Readonly<Record<string, unknown>>;

const objectOf = (value: unknown): Json =>
  typeof value === "object" && value !== null ? (value as Json) : {};

/** Whether a revision is a commit by itself. */
export const isCommit = (revision: string): boolean => COMMIT.test(revision);

/** The commit that a server says a revision is. @throws FormatError */
export function commitOf(repo: string, info: unknown): string {
  const { sha } = objectOf(info);
  if (typeof sha !== "string" || !COMMIT.test(sha))
    throw new FormatError(
      repo,
      `the server's commit is ${JSON.stringify(sha ?? null).slice(0, 80)}; it must be 40 hex digits`,
    );
  return sha;
}

/**
 * A file as a server's list has it; undefined for folders. Hashes name files of the cache, so that nothing but a hash is
 * taken for one.
 *
 * @throws FormatError
 */
export function fileOf(repo: string, entry: unknown): HubFile | undefined {
  const { type, path, size, oid, lfs } = objectOf(entry);
  if (type !== "file") return undefined;
  const fail = (message: string): never => {
    throw new FormatError(repo, `the server's list ${message}`);
  };
  if (typeof path !== "string" || path === "" || /(^|\/)\.{0,2}(\/|$)|[\\\0]/.test(path))
    return fail(`has the path ${JSON.stringify(path ?? null).slice(0, 80)}`);
  const large = objectOf(lfs);
  const length = lfs ? large["size"] : size;
  const hash = lfs ? large["oid"] : oid;
  if (typeof length !== "number" || !Number.isSafeInteger(length) || length < 0)
    return fail(`has the size ${JSON.stringify(length)} for ${path}`);
  if (typeof hash !== "string" || !(lfs ? SHA256 : COMMIT).test(hash))
    return fail(`has the hash ${JSON.stringify(hash ?? null).slice(0, 80)} for ${path}`);
  return { path, size: length, hash, algorithm: lfs ? "sha256" : "git" };
}
