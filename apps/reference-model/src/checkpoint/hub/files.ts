import { ConfigError, FormatError } from "@x/kernels";
import { BESIDE } from "../names.js";

/** A repository of the Hub: "org/name", or "org/name/file.gguf" for one of its GGUF files. */
export interface HubId {
  readonly repo: string;
  readonly file: string | undefined;
}

const ID = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:\/((?:[\w.-]+\/)*[\w.-]+\.gguf))?$/;

/** A path as the name of a repository; undefined where it is not one. */
export function hubId(path: string): HubId | undefined {
  const [, repo, file] = ID.exec(path) ?? [];
  if (repo === undefined || path.includes("..") || path.includes("--")) return undefined;
  return { repo, file };
}

const SHARD = /^model-(\d{5})-of-(\d{5})\.safetensors$/;
const INDEX = "model.safetensors.index.json";

/** The files that a model needs of those that a repository has. @throws ConfigError, FormatError where it has none */
export function modelFiles({ repo, file }: HubId, names: readonly string[]): string[] {
  const fail = (message: string): never => {
    throw new ConfigError(repo, message);
  };
  if (file !== undefined) return names.includes(file) ? [file] : fail(`has no file ${file}`);
  const beside = names.filter((name) => name === "config.json" || BESIDE.test(name));
  if (names.includes("config.json")) {
    if (names.includes(INDEX)) {
      const shards = names.filter((name) => SHARD.test(name));
      const total = Number(SHARD.exec(shards[0] ?? "")?.[2] ?? 0);
      if (total === 0 || shards.length !== total)
        throw new FormatError(repo, `has ${shards.length} of ${total || "an unknown number of"} shards`);
      return [...beside, INDEX, ...shards];
    }
    if (names.includes("model.safetensors")) return [...beside, "model.safetensors"];
  }
  const ggufs = names.filter((name) => /\.gguf$/i.test(name));
  if (ggufs.length === 1) return ggufs;
  if (ggufs.length > 1)
    fail(
      `has ${ggufs.length} GGUF files; name one as ${repo}/FILE: ${ggufs.slice(0, 8).join(", ")}${ggufs.length > 8 ? ", .." : ""}`,
    );
  return fail("has neither config.json with model.safetensors nor a .gguf file");
}

/** The files of an adapter. @throws ConfigError where it has none */
export function adapterFiles({ repo }: HubId, names: readonly string[]): string[] {
  const wanted = ["adapter_config.json", "adapter_model.safetensors"];
  const lacks = wanted.find((name) => !names.includes(name));
  if (lacks !== undefined) throw new ConfigError(repo, `has no ${lacks}`);
  return wanted;
}
