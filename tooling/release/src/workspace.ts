import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** The repository's root. */
export const repository: string = fileURLToPath(new URL("../../../", import.meta.url));

export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly private?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, "utf8")) as unknown;
}

export const readManifest = (folder: string): Manifest => readJson(join(folder, "package.json")) as Manifest;

/** Folders of the workspace, relative to the root. */
export function workspaceFolders(): string[] {
  return ["packages", "apps", "tooling"].flatMap((top) =>
    readdirSync(join(repository, top))
      .map((name) => `${top}/${name}`)
      .filter((folder) => existsSync(join(repository, folder, "package.json"))),
  );
}

/** Folders of the packages that are published. */
export function publicFolders(): string[] {
  return workspaceFolders().filter((folder) => readManifest(join(repository, folder)).private !== true);
}

export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const start = promisify(execFile);

/** Run a program to its end; a failure is a result, not an exception. */
export async function execute(
  program: string,
  args: readonly string[],
  options: { readonly cwd: string; readonly timeout?: number; readonly env?: NodeJS.ProcessEnv },
): Promise<Finished> {
  try {
    const { stdout, stderr } = await start(program, [...args], {
      timeout: 120_000,
      maxBuffer: 64 * 2 ** 20,
      ...options,
      env: { ...process.env, NO_COLOR: "1", ...options.env },
    });
    return { code: 0, stdout, stderr };
  } catch (error) {
    const failed = error as { code?: number | string; stdout?: string; stderr?: string; message: string };
    return {
      code: typeof failed.code === "number" ? failed.code : 1,
      stdout: failed.stdout ?? "",
      stderr: failed.stderr ?? failed.message,
    };
  }
}

/** `execute`, with an error that holds the output if the program fails. */
export async function executeOrThrow(
  program: string,
  args: readonly string[],
  options: { readonly cwd: string; readonly timeout?: number; readonly env?: NodeJS.ProcessEnv },
): Promise<string> {
  const { code, stdout, stderr } = await execute(program, args, options);
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${code}:\n${stdout}\n${stderr}`);
  return stdout;
}

/** A tool that the workspace has installed. */
export const tool = (name: string): string => join(repository, "node_modules/.bin", name);
