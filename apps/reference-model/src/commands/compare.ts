import { basename, join } from "node:path";
import type { Command } from "commander";
import { ConfigError, type Gpu } from "@x/kernels";
import { readJson, writeAtomically } from "../checkpoint/files.js";
import { expectObject } from "../config/index.js";
import { DOCUMENT_BREAK } from "../corpus/data.js";
import { writeStory } from "../corpus/stories.js";
import type { Components } from "../components/index.js";
import { CONTEXT_RULE } from "../model/context.js";
import { TRAINING_DEFAULTS, type TrainingOptions } from "../training/options.js";
import { contextOf } from "../training/text.js";
import { train } from "../training/train.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { outputFile } from "./output_option.js";
import { Progress } from "./progress.js";
import { integerIn, withDevice, withTemporaryFolder } from "./shared.js";
import { addTrainingOptions } from "./training_options.js";

/** Options of short runs: seconds each on a software adapter. */
const SHORT: TrainingOptions = {
  ...TRAINING_DEFAULTS,
  steps: 150,
  batch: 8,
  seqLen: 64,
  warmup: 20,
  validation: 0.02,
  evaluateEvery: 1_000_000,
  saveEvery: 1_000_000,
};

interface Run {
  readonly name: string;
  readonly parameters: number;
  readonly first: number;
  readonly loss: number;
  readonly validation: number;
}

interface CompareFlags extends Partial<Record<keyof TrainingOptions, number>>, ComponentsFlag {
  data?: string;
  vocabSize: number;
  table?: string;
  json?: true;
}

/** A configuration file's model; a training configuration holds it. */
async function modelOf(file: string): Promise<Record<string, unknown>> {
  const json = expectObject(file, await readJson(file)) as Record<string, unknown>;
  return expectObject(file, json["model"] ?? json);
}

async function runOne(
  gpu: Gpu,
  file: string,
  model: Record<string, unknown>,
  data: string,
  vocabSize: number,
  options: TrainingOptions,
  components: Components | undefined,
): Promise<Run> {
  return withTemporaryFolder(async (out) => {
    const losses: number[] = [];
    let validation = NaN;
    const bar = new Progress(`${basename(file)} {bar} {value}/{total} | loss {loss}`);
    await train(
      gpu,
      { data, out, model, vocabSize, options, components },
      {
        onStart: ({ warning }) => {
          if (warning) process.stderr.write(`warning: ${file}: --seq-len: ${warning}\n`);
        },
        onProgress: (p) => {
          losses.push(p.loss);
          validation = p.validationLoss ?? validation;
          bar.show(p.step, p.steps, { loss: p.loss.toFixed(3) });
        },
      },
    );
    bar.stop();
    const { parameters } = (await readJson(join(out, "training.json"))) as { parameters: { total: number } };
    // The mean of the last steps: one batch's loss says little.
    const last = losses.slice(-20);
    return {
      name: basename(file, ".json"),
      parameters: parameters.total,
      first: losses[0]!,
      loss: last.reduce((a, b) => a + b, 0) / last.length,
      validation,
    };
  });
}

function markdown(runs: readonly Run[], command: string): string {
  const rows = [
    ["configuration", "parameters", "first loss", "training loss", "validation loss"],
    ["---", "---:", "---:", "---:", "---:"],
    ...runs.map((r) => [
      r.name,
      String(r.parameters),
      r.first.toFixed(3),
      r.loss.toFixed(3),
      r.validation.toFixed(3),
    ]),
  ];
  return `\`${command}\`\n\n${rows.map((row) => `| ${row.join(" | ")} |`).join("\n")}\n`;
}

/** `compare`: train several configurations alike, and put their losses side by side. */
export function compareCommand(program: Command): void {
  const command = program
    .command("compare")
    .description("train several configurations alike for a short while and put their losses side by side")
    .argument(
      "<config...>",
      "config.json files, of a public family or of parts, or training configurations, whose model is taken",
    )
    .option("-d, --data <path>", "UTF-8 text (default: 3000 stories of the generator)")
    .option("--vocab-size <n>", "tokens to learn", integerIn(257), 512)
    .addOption(componentsOption())
    .option("--json", "print the runs as JSON instead of the table")
    .addOption(outputFile("--table <file>", "also write the table as Markdown, with the command"));
  command.addHelpText("after", `\n${CONTEXT_RULE}`);
  addTrainingOptions(command, SHORT, ["evaluateEvery", "saveEvery"]);
  command.action(async (files: string[], flags: CompareFlags) => {
    const models = await Promise.all(files.map(modelOf));
    const options = { ...SHORT, seqLen: Math.min(SHORT.seqLen, ...models.map(contextOf)) };
    for (const key of Object.keys(SHORT) as (keyof TrainingOptions)[])
      (options as Record<keyof TrainingOptions, number>)[key] = flags[key] ?? options[key];
    const names = files.map((file) => basename(file));
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) throw new ConfigError("compare", `two configurations are called ${twice}`);
    const components = await componentsOf(flags);
    await withTemporaryFolder(async (folder) => {
      const data = flags.data ?? join(folder, "stories.txt");
      if (flags.data === undefined)
        await writeAtomically(
          data,
          Array.from({ length: 3000 }, (_, i) => writeStory(i)).join(DOCUMENT_BREAK),
        );
      const runs: Run[] = [];
      await withDevice(async (gpu) => {
        for (const [i, file] of files.entries())
          runs.push(await runOne(gpu, file, models[i]!, data, flags.vocabSize, options, components));
      });
      const text = markdown(runs, `npm run model -- ${process.argv.slice(2).join(" ")}`);
      process.stdout.write(flags.json ? `${JSON.stringify(runs)}\n` : text);
      if (flags.table !== undefined) await writeAtomically(flags.table, text);
    });
  });
}
