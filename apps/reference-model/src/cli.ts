#!/usr/bin/env node
import { createRequire } from "node:module";
import { Command } from "commander";
import { expectOneOf } from "@x/kernels";
import { compareCommand } from "./commands/compare.js";
import { convertCommand } from "./commands/convert/convert.js";
import { expertsCommand } from "./commands/experts.js";
import { editCommand } from "./commands/edit.js";
import { generateCommand } from "./commands/generate.js";
import { infoCommand } from "./commands/info.js";
import { inspectCommand } from "./commands/inspect.js";
import { logitsCommand } from "./commands/logits.js";
import { perplexityCommand } from "./commands/perplexity.js";
import { serveCommand } from "./commands/serve.js";
import { storiesCommands } from "./commands/stories.js";
import { addHubOptions, fetchFromHub } from "./hub_models.js";
import { checkOutputs } from "./commands/output_option.js";
import { surveyCommand } from "./commands/survey.js";
import { trainCommand } from "./commands/train.js";
import { runProcess } from "./process_end.js";

const program = new Command("reference-model")
  .description("Transformers on WebGPU, decoder-only and encoder-decoder: generate, train, evaluate.")
  .version((createRequire(import.meta.url)("../package.json") as { version: string }).version)
  .showHelpAfterError("(--help shows the options)")
  .configureHelp({ sortSubcommands: false })
  .exitOverride()
  .hook("preAction", async (_, command) => {
    await checkOutputs(command);
    await fetchFromHub(command);
  });

for (const add of [
  generateCommand,
  serveCommand,
  trainCommand,
  logitsCommand,
  perplexityCommand,
  infoCommand,
  convertCommand,
  compareCommand,
  expertsCommand,
  inspectCommand,
  editCommand,
  surveyCommand,
  storiesCommands,
])
  add(program);
addHubOptions(program);

/** `generate` runs where no command is named, so a first word that is not an option is meant as a command. */
async function main(): Promise<void> {
  const [first] = process.argv.slice(2);
  const names = [...program.commands.map((command) => command.name()), "help"];
  if (first !== undefined && !first.startsWith("-")) expectOneOf("reference-model", "command", first, names);
  await program.parseAsync();
}

void runProcess(main);
