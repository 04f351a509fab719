import { dirname, resolve } from "node:path";
import { Option, type Command } from "commander";
import { ConfigError, expectOneOf } from "@x/kernels";
import { readJson } from "../checkpoint/files.js";
import { readConfig } from "../checkpoint/load.js";
import { CHECKPOINT_DTYPES, type CheckpointDType } from "../checkpoint/save.js";
import { expectObject } from "../config/index.js";
import { CONTEXT_RULE } from "../model/context.js";
import { onStop } from "../process_end.js";
import { optionOf, TRAINING, TRAINING_DEFAULTS, type TrainingOptions } from "../training/options.js";
import { recipe, RECIPE, RECIPE_DEFAULTS, type RecipeOptions } from "../training/recipe.js";
import { contextOf } from "../training/text.js";
import { train, type Start, type TrainingRun } from "../training/train.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { outputFolder } from "./output_option.js";
import { Progress } from "./progress.js";
import { integer, withDevice } from "./shared.js";
import { addRecipeOptions, addTrainingOptions } from "./training_options.js";

interface TrainFlags
  extends Partial<Record<keyof TrainingOptions | keyof RecipeOptions, number>>, ComponentsFlag {
  data?: string;
  out?: string;
  init?: string;
  config?: string;
  modelConfig?: string;
  vocabSize?: number;
  dtype?: string;
}

/** `train`: train a model, or go on with a run. */
export function trainCommand(program: Command): void {
  const command = program
    .command("train")
    .description(
      "train a model on text, or go on with a run that was stopped: the same command goes on with the run in --out, and " +
        "a higher --steps lengthens a finished one. Ctrl-C (or SIGTERM) finishes the step, saves the run and the model, " +
        "and ends with code 130 (143); a second one ends at once, and what was saved before stays",
    )
    .option("-d, --data <path>", "UTF-8 text file (documents separated by empty lines) or a folder of them")
    .addOption(outputFolder("-o, --out <dir>", "folder of the run and, at the end, the model"))
    .option(
      "-c, --config <file>",
      "JSON with data, out, init, vocabSize, dtype, model (a config.json's content) and the options of training " +
        "by their names (seqLen); flags win",
    )
    .option("--init <dir>", "a model folder to start from: weights, tokenizer and configuration")
    .option(
      "--model-config <file>",
      "a config.json whose shape the model takes, of a public family or of parts (default: the recipe)",
    )
    .addOption(componentsOption())
    .addOption(
      new Option("--dtype <type>", "of the finished model's weights (default: f32)").choices(
        Object.keys(CHECKPOINT_DTYPES),
      ),
    )
    .option(
      "--vocab-size <n>",
      "tokens to learn where the out folder has no tokenizer (default: 1024)",
      integer,
    );
  addTrainingOptions(command, TRAINING_DEFAULTS);
  addRecipeOptions(command);
  command.addHelpText("after", `\n${CONTEXT_RULE}`);
  command.action(async (flags: TrainFlags) => {
    await runTraining(await runOf(flags));
  });
}

/** The run that flags and a configuration file describe; flags win. */
async function runOf(flags: TrainFlags): Promise<TrainingRun> {
  const file =
    flags.config === undefined
      ? {}
      : (expectObject(flags.config, await readJson(flags.config)) as Record<string, unknown>);
  const who = flags.config ?? "train";
  const known = ["data", "out", "init", "vocabSize", "dtype", "model", ...Object.keys(TRAINING_DEFAULTS)];
  for (const key of Object.keys(file))
    if (!known.includes(key)) throw new ConfigError(who, `unknown key "${key}" (known: ${known.join(", ")})`);
  const path = (own: string | undefined, key: string): string => {
    if (own !== undefined) return own;
    const value = file[key];
    if (typeof value !== "string") throw new ConfigError("train", `--${key} is missing`);
    return resolve(dirname(flags.config!), value);
  };
  const init = flags.init ?? (file["init"] === undefined ? undefined : path(undefined, "init"));
  const vocabSize = flags.vocabSize ?? file["vocabSize"] ?? 1024;
  if (typeof vocabSize !== "number")
    throw new ConfigError(who, `vocabSize is ${JSON.stringify(vocabSize)}; it must be a number`);
  const dtype = (flags.dtype ?? file["dtype"] ?? "f32") as CheckpointDType;
  expectOneOf("train", "dtype", dtype, Object.keys(CHECKPOINT_DTYPES) as CheckpointDType[]);
  const model = await modelOf(flags, file, init);
  const context = init === undefined ? contextOf(model) : (await readConfig(init)).config.maxLength;
  return {
    data: path(flags.data, "data"),
    out: path(flags.out, "out"),
    init,
    model,
    vocabSize,
    options: optionsOf(flags, file, context),
    dtype,
    components: await componentsOf(flags),
  };
}

/** The options that flags and a file give; a sequence is by default as long as is usual, within the context. */
function optionsOf(
  flags: TrainFlags,
  file: Readonly<Record<string, unknown>>,
  context: number,
): TrainingOptions {
  const options: Record<keyof TrainingOptions, number> = {
    ...TRAINING_DEFAULTS,
    seqLen: Math.min(TRAINING_DEFAULTS.seqLen, context),
  };
  for (const key of Object.keys(TRAINING_DEFAULTS) as (keyof TrainingOptions)[]) {
    const value = flags[key] ?? file[key] ?? options[key];
    TRAINING.fields[key].check(flags.config ?? "train", key, value);
    options[key] = value as number;
  }
  return options;
}

/** The configuration of a new model: a file's, or the recipe's. */
async function modelOf(
  flags: TrainFlags,
  file: Readonly<Record<string, unknown>>,
  init: string | undefined,
): Promise<Record<string, unknown>> {
  const keys = Object.keys(RECIPE_DEFAULTS) as (keyof RecipeOptions)[];
  const shaped = keys.find((key) => flags[key] !== undefined);
  const given = flags.modelConfig === undefined ? file["model"] : await readJson(flags.modelConfig);
  if (init !== undefined && (given !== undefined || shaped !== undefined))
    throw new ConfigError("train", `the model's configuration is that of ${init}; give no other`);
  if (given !== undefined && shaped !== undefined)
    throw new ConfigError(
      "train",
      `${optionOf(shaped)} shapes a model of the recipe; the model's configuration is given already`,
    );
  if (given === undefined) {
    const shape = keys.map((key) => [key, flags[key] ?? RECIPE_DEFAULTS[key]] as const);
    return recipe(RECIPE.read(Object.fromEntries(shape)));
  }
  return expectObject(flags.modelConfig ?? `${flags.config!}: model`, given);
}

/** Minutes and seconds. */
const duration = (seconds: number): string =>
  `${Math.floor(seconds / 60)}m${String(Math.floor(seconds % 60)).padStart(2, "0")}s`;

function tell(adapter: string, run: TrainingRun, start: Start): void {
  const lines = [
    `training on ${adapter}: ${start.parameters} parameters, ${start.trainingTokens} tokens of text, seed ${run.options.seed}`,
    ...(start.endOfText
      ? []
      : ["neither the tokenizer nor the model has an end-of-text token: documents run into each other"]),
    ...(start.warning === undefined ? [] : [`warning: --seq-len: ${start.warning}`]),
    ...(start.step === 0 ? [] : [`going on from step ${start.step} of ${start.steps} in ${run.out}`]),
    ...(start.step === start.steps
      ? ["there is nothing left to do; a higher --steps lengthens the run"]
      : []),
  ];
  process.stderr.write(`${lines.join("\n")}\n`);
}

async function runTraining(run: TrainingRun): Promise<void> {
  let stopping = false;
  const stop = (): void => {
    stopping = true;
    process.stderr.write("\nsaving after this step .. (a second signal ends at once)\n");
  };
  await withDevice(async (gpu) => {
    const bar = new Progress(
      "{bar} {value}/{total} | loss {loss} | validation {validation} | {rate} tokens/s | {left} left",
    );
    let release: (() => void) | undefined;
    const result = await train(gpu, run, {
      stopped: () => stopping,
      onStart: (start) => {
        tell(gpu.info.name, run, start);
      },
      onProgress: (p) => {
        // Before the first step there is nothing to save, and a signal ends the process at once.
        release ??= onStop(stop);
        bar.show(p.step, p.steps, {
          loss: p.loss.toFixed(4),
          validation: p.validationLoss?.toFixed(4) ?? "-",
          rate: p.tokensPerSecond?.toFixed(0) ?? "-",
          left: p.secondsLeft === undefined ? "-" : duration(p.secondsLeft),
        });
      },
    });
    release?.();
    bar.stop();
    process.stderr.write(
      `step ${result.step}, loss ${result.loss.toFixed(4)}, validation loss ${result.validationLoss?.toFixed(4) ?? "-"}\n` +
        (result.step < run.options.steps
          ? `saved in ${run.out} at step ${result.step} of ${run.options.steps}; the same command goes on from there\n`
          : ""),
    );
  });
}
