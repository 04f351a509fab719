import { Option, type Command } from "commander";
import { ConfigError } from "@x/kernels";
import { exists } from "./checkpoint/files.js";
import { adapterFiles, hubId, modelFiles } from "./checkpoint/hub/files.js";
import { snapshot, type Choice } from "./checkpoint/hub/snapshot.js";
import { Progress } from "./commands/progress.js";

const takesModel = (command: Command): boolean => command.options.some(({ long }) => long === "--model");

/** Lets every command that takes a model take one of the Hugging Face Hub. */
export function addHubOptions(program: Command): void {
  for (const command of program.commands)
    if (takesModel(command))
      command.addOption(
        new Option(
          "--revision <name>",
          "branch, tag or commit of a --model of the Hugging Face Hub (default: main)",
        ),
      );
}

/** The folder of a name; a folder or file of this name wins. */
async function fetchedPath(name: string, choose: Choice, revision?: string): Promise<string | undefined> {
  const id = hubId(name);
  if (id === undefined || (await exists(name))) return undefined;
  const progress = new Progress(`${id.repo} {bar} {percentage} % | {done} of {all} MB`);
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
  try {
    const folder = await snapshot(id, choose, {
      revision,
      onBytes: (done, total) => {
        progress.show(done, total, { done: megabytes(done), all: megabytes(total) });
      },
      warn: (text) => process.stderr.write(`warning: ${text}\n`),
    });
    return id.file === undefined ? folder : `${folder}/${id.file}`;
  } finally {
    progress.stop();
  }
}

/** Before a command: models and adapters that are names of repositories become folders of the cache. @throws ConfigError, FormatError */
export async function fetchFromHub(command: Command): Promise<void> {
  if (!takesModel(command)) return;
  const { model, revision, adapter, mergeAdapter } = command.opts<{
    model?: string;
    revision?: string;
    adapter?: readonly string[];
    mergeAdapter?: readonly string[];
  }>();
  const folder = model === undefined ? undefined : await fetchedPath(model, modelFiles, revision);
  if (folder !== undefined) command.setOptionValue("model", folder);
  else if (revision !== undefined)
    throw new ConfigError("--revision", "is given, but --model is not a repository of the Hugging Face Hub");
  for (const [key, names] of Object.entries({ adapter, mergeAdapter })) {
    if (names === undefined) continue;
    const paths: string[] = [];
    for (const name of names) paths.push((await fetchedPath(name, adapterFiles)) ?? name);
    command.setOptionValue(key, paths);
  }
}
