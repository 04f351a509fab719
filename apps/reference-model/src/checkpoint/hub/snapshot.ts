import { copyFile, mkdir, readdir, readFile, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { getHFHubCachePath, getRepoFolderName, HubApiError, listFiles, modelInfo } from "@huggingface/hub";
import { ConfigError, FormatError, KernelsError } from "@x/kernels";
import { exists, writeAtomically } from "../files.js";
import { download, type Remote } from "./download.js";
import type { HubId } from "./files.js";
import { commitOf, fileOf, isCommit, type HubFile } from "./metadata.js";

export interface SnapshotOptions {
  /** A branch, a tag or a commit; default: main. */
  readonly revision?: string | undefined;
  /** Called as bytes come. */
  readonly onBytes?: (done: number, total: number) => void;
  /** Is told what the user should know. */
  readonly warn?: (text: string) => void;
}

/** Which of a repository's files are needed. */
export type Choice = (id: HubId, names: readonly string[]) => string[];

const set = (value: string | undefined): value is string => value !== undefined && value !== "";
const isOffline = (): boolean =>
  ["1", "true", "yes", "on"].includes((process.env["HF_HUB_OFFLINE"] ?? "").toLowerCase());

/** The server and the token that the environment names. @throws ConfigError */
function access(): Pick<Remote, "hubUrl" | "accessToken"> {
  const { HF_ENDPOINT: endpoint, HF_TOKEN: token } = process.env;
  if (set(endpoint) && !/^https?:\/\//.test(endpoint))
    throw new ConfigError(
      "HF_ENDPOINT",
      `is ${JSON.stringify(endpoint)}; it must be an address such as https://host`,
    );
  if (set(token) && !token.startsWith("hf_"))
    throw new ConfigError("HF_TOKEN", 'does not begin with "hf_", as tokens of the Hub do');
  return {
    ...(set(endpoint) ? { hubUrl: endpoint.replace(/\/+$/, "") } : {}),
    ...(set(token) ? { accessToken: token } : {}),
  };
}

/** A server's refusal in the words of this program. */
function refused(repo: string, revision: string, error: HubApiError): ConfigError {
  const { statusCode: status, message } = error;
  const fail = (text: string): ConfigError =>
    new ConfigError(repo, `${text} (the server says ${status}: ${message})`, { cause: error });
  const token = set(process.env["HF_TOKEN"]);
  if (status === 401 || status === 403)
    return fail(
      token
        ? "is not a folder here, and on the Hub it does not exist, or the token in HF_TOKEN may not read it"
        : "is not a folder here, and on the Hub it does not exist, or not for everyone: set HF_TOKEN to a token that may read it",
    );
  if (status === 404)
    return fail(
      `is not a folder here, and on the Hub it does not exist or has no revision ${JSON.stringify(revision)}`,
    );
  return fail("cannot be fetched now");
}

const cacheOf = ({ repo }: HubId): string =>
  join(getHFHubCachePath(), getRepoFolderName({ type: "model", name: repo }));

/** The names of all files below a folder. */
async function namesBelow(folder: string, prefix = ""): Promise<string[]> {
  const entries = await readdir(join(folder, prefix), { withFileTypes: true });
  const names = await Promise.all(
    entries.map((entry) => {
      const name = prefix === "" ? entry.name : `${prefix}/${entry.name}`;
      return entry.isDirectory() ? namesBelow(folder, name) : Promise.resolve([name]);
    }),
  );
  return names.flat();
}

/** The commit that the cache has of a revision, if any. */
async function cachedCommit(cache: string, revision: string): Promise<string | undefined> {
  if (isCommit(revision)) return revision;
  const text = await readFile(join(cache, "refs", revision), "utf8").catch(() => undefined);
  return text !== undefined && isCommit(text.trim()) ? text.trim() : undefined;
}

/** A snapshot of the cache that has all that is needed. */
async function cached(id: HubId, revision: string, choose: Choice): Promise<string | undefined> {
  const cache = cacheOf(id);
  const commit = await cachedCommit(cache, revision);
  const folder = commit && join(cache, "snapshots", commit);
  if (folder === undefined || folder === "" || !(await exists(folder))) return undefined;
  try {
    const needed = choose(id, await namesBelow(folder));
    const there = await Promise.all(needed.map((name) => exists(join(folder, name))));
    return there.every(Boolean) ? folder : undefined;
  } catch (error) {
    if (KernelsError.isInstance(error)) return undefined;
    throw error;
  }
}

async function filesOf(remote: Remote): Promise<HubFile[]> {
  const { repo, commit, ...rest } = remote;
  const out: HubFile[] = [];
  for await (const entry of listFiles({ repo, revision: commit, recursive: true, ...rest })) {
    const file = fileOf(repo, entry);
    if (file) out.push(file);
  }
  return out;
}

/** A file of a snapshot is a link to its content, as huggingface_hub has it; a copy where there are no links. */
async function link(blob: string, path: string): Promise<void> {
  if (await exists(path)) return;
  await mkdir(dirname(path), { recursive: true });
  await symlink(relative(dirname(path), blob), path).catch(() => copyFile(blob, path));
}

async function fetched(
  id: HubId,
  revision: string,
  choose: Choice,
  options: SnapshotOptions,
): Promise<string> {
  const { repo } = id;
  const rest = access();
  const cache = cacheOf(id);
  const info = await modelInfo({ name: repo, revision, additionalFields: ["sha"], ...rest });
  const remote = { repo, commit: commitOf(repo, info), ...rest };
  const files = await filesOf(remote);
  const names = choose(
    id,
    files.map(({ path }) => path),
  );
  const needed = files.filter(({ path }) => names.includes(path));
  const total = needed.reduce((n, { size }) => n + size, 0);
  let done = 0;
  const count = (bytes: number): void => options.onBytes?.((done += bytes), total);
  const folder = join(cache, "snapshots", remote.commit);
  await mkdir(join(cache, "blobs"), { recursive: true });
  for (const file of needed) {
    const blob = join(cache, "blobs", file.hash);
    if (await exists(blob)) count(file.size);
    else await download(remote, file, blob, count);
    await link(blob, join(folder, file.path));
  }
  if (!isCommit(revision)) {
    const ref = join(cache, "refs", revision);
    await mkdir(dirname(ref), { recursive: true });
    await writeAtomically(ref, remote.commit);
  }
  return folder;
}

const REVISION = /^(?!.*\.\.)[\w][\w./-]*$/;

/**
 * The folder of a repository's files in the cache that huggingface_hub shares (HF_HUB_CACHE, or HF_HOME/hub), fetched
 * from HF_ENDPOINT with HF_TOKEN where they are not there. Only the files that `choose` names are fetched; a try that was
 * interrupted goes on; each file's hash is compared. Without a connection, or with HF_HUB_OFFLINE, the cache alone counts.
 *
 * @throws ConfigError for a repository, a revision or a token that the server refuses; FormatError for a server that
 * cannot be reached and for content that is not what it should be
 */
export async function snapshot(id: HubId, choose: Choice, options: SnapshotOptions = {}): Promise<string> {
  const { revision = "main", warn } = options;
  if (!REVISION.test(revision))
    throw new ConfigError(
      "--revision",
      `is ${JSON.stringify(revision)}; it must be a branch, a tag or a commit`,
    );
  if (isOffline()) {
    const folder = await cached(id, revision, choose);
    if (folder !== undefined) return folder;
    throw new ConfigError(id.repo, `is not in the cache ${cacheOf(id)}, and HF_HUB_OFFLINE is set`);
  }
  if (isCommit(revision)) {
    const folder = await cached(id, revision, choose);
    if (folder !== undefined) return folder;
  }
  try {
    return await fetched(id, revision, choose, options);
  } catch (error) {
    if (KernelsError.isInstance(error)) throw error;
    const answered = error instanceof HubApiError;
    if (answered && error.statusCode < 500) throw refused(id.repo, revision, error);
    const folder = await cached(id, revision, choose);
    const reason = error instanceof Error ? error.message : String(error);
    if (folder !== undefined) {
      warn?.(`${id.repo} is taken from the cache, since the server cannot be asked: ${reason}`);
      return folder;
    }
    if (answered) throw refused(id.repo, revision, error);
    const server = process.env["HF_ENDPOINT"] ?? "the Hub";
    throw new FormatError(id.repo, `is not a folder here, and cannot be fetched from ${server}: ${reason}`, {
      cause: error,
    });
  }
}
