#!/usr/bin/env node
import { Command } from "commander";
import { KernelsError } from "@x/kernels";
import { TokenizerError } from "@x/tokenizer";
import { compareCommand } from "./commands/compare.js";
import { convertCommand } from "./commands/convert.js";
import { expertsCommand } from "./commands/experts.js";
import { editCommand } from "./commands/edit.js";
import { generateCommand } from "./commands/generate.js";
import { infoCommand } from "./commands/info.js";
import { inspectCommand } from "./commands/inspect.js";
import { logitsCommand } from "./commands/logits.js";
import { perplexityCommand } from "./commands/perplexity.js";
import { storiesCommands } from "./commands/stories.js";
import { surveyCommand } from "./commands/survey.js";
import { trainCommand } from "./commands/train.js";

const program = new Command("reference-model")
  .description("A decoder-only Transformer on WebGPU: generate, train, evaluate.")
  .showHelpAfterError("(--help shows the options)")
  .configureHelp({ sortSubcommands: false });

for (const add of [
  generateCommand,
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

program.parseAsync().catch((error: unknown) => {
  // What a user can act on is one line; anything else is a fault of ours and shows where.
  if (KernelsError.isInstance(error) || TokenizerError.isInstance(error))
    process.stderr.write(`error: ${(error as Error).message}\n`);
  else process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exitCode = 1;
});
