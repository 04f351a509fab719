import { dirname, resolve } from "node:path";
import cliProgress from "cli-progress";
import { Option, type Command } from "commander";
import { ConfigError, expectOneOf } from "@x/kernels";
import { CHECKPOINT_DTYPES, readJson, type CheckpointDType } from "../checkpoint.js";
import { expectObject } from "../config/index.js";
import { recipe, RECIPE_DEFAULTS, type RecipeOptions } from "../recipe.js";
import { train, TRAINING_DEFAULTS, type TrainingOptions } from "../train.js";
import { integer, optionOf, withDevice } from "./shared.js";
import { addRecipeOptions, addTrainingOptions } from "./training_options.js";

interface TrainFlags extends Partial<Record<keyof TrainingOptions | keyof RecipeOptions, number>> {
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
    .description("train a model on text, or go on with a run that was stopped")
    .option("-d, --data <path>", "UTF-8 text file (documents separated by empty lines) or a folder of them")
    .option("-o, --out <dir>", "folder of the run and, at the end, the model")
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
  command.action(async (flags: TrainFlags) => {
    const file =
      flags.config === undefined ? {} : ((await readJson(flags.config)) as Record<string, unknown>);
    const base = flags.config === undefined ? process.cwd() : dirname(flags.config);
    const path = (own: string | undefined, key: string): string => {
      if (own !== undefined) return own;
      const value = file[key];
      if (typeof value !== "string") throw new ConfigError("train", `--${key} is missing`);
      return resolve(base, value);
    };
    const options = { ...TRAINING_DEFAULTS };
    for (const key of Object.keys(TRAINING_DEFAULTS) as (keyof TrainingOptions)[]) {
      const value = flags[key] ?? file[key];
      if (value === undefined) continue;
      if (typeof value !== "number")
        throw new ConfigError(
          flags.config ?? "train",
          `${key} is ${JSON.stringify(value)}; it must be a number`,
        );
      (options as Record<keyof TrainingOptions, number>)[key] = value;
    }
    const known = ["data", "out", "init", "vocabSize", "dtype", "model", ...Object.keys(TRAINING_DEFAULTS)];
    for (const key of Object.keys(file))
      if (!known.includes(key))
        throw new ConfigError(flags.config ?? "train", `unknown key "${key}" (known: ${known.join(", ")})`);
    const shape = Object.entries(RECIPE_DEFAULTS).map(
      ([key, otherwise]) => [key, flags[key as keyof RecipeOptions] ?? (otherwise as number)] as const,
    );
    const shaped = shape.find(([key]) => flags[key as keyof RecipeOptions] !== undefined);
    const init = flags.init ?? (file["init"] === undefined ? undefined : path(undefined, "init"));
    const given = flags.modelConfig === undefined ? file["model"] : await readJson(flags.modelConfig);
    if (init !== undefined && (given !== undefined || shaped))
      throw new ConfigError("train", `the model's configuration is that of ${init}; give no other`);
    if (given !== undefined && shaped)
      throw new ConfigError(
        "train",
        `${optionOf(shaped[0])} shapes a model of the recipe; the model's configuration is given already`,
      );
    const model =
      given === undefined
        ? recipe(Object.fromEntries(shape) as unknown as RecipeOptions)
        : (expectObject(flags.modelConfig ?? `${flags.config!}: model`, given) as Record<string, unknown>);
    const vocabSize = flags.vocabSize ?? file["vocabSize"] ?? 1024;
    if (typeof vocabSize !== "number")
      throw new ConfigError("train", `vocabSize is ${JSON.stringify(vocabSize)}; it must be a number`);
    const dtype = (flags.dtype ?? file["dtype"] ?? "f32") as CheckpointDType;
    expectOneOf("train", "dtype", dtype, Object.keys(CHECKPOINT_DTYPES) as CheckpointDType[]);
    const [data, out] = [path(flags.data, "data"), path(flags.out, "out")];
    let stopping = false;
    const stop = (): void => {
      if (stopping) process.exit(130);
      stopping = true;
      process.stderr.write("\nsaving ... (Ctrl-C again quits at once)\n");
    };
    process.on("SIGINT", stop);
    process.on("SIGTERM", stop);
    await withDevice(async (gpu) => {
      process.stderr.write(`training on ${gpu.info.name}\n`);
      const bar = new cliProgress.SingleBar({
        format:
          "{bar} {value}/{total} | loss {loss} | validation {validation} | {rate} tokens/s | {left} left",
        hideCursor: true,
        noTTYOutput: true,
        notTTYSchedule: 15_000,
        stream: process.stderr,
      });
      let started = false;
      const result = await train(
        gpu,
        {
          data,
          out,
          init,
          model,
          vocabSize,
          options,
          dtype,
        },
        {
          stopped: () => stopping,
          onProgress: (p) => {
            const values = {
              loss: p.loss.toFixed(4),
              validation: p.validationLoss?.toFixed(4) ?? "-",
              rate: p.tokensPerSecond.toFixed(0),
              left: `${Math.floor(p.secondsLeft / 60)}m${String(Math.floor(p.secondsLeft % 60)).padStart(2, "0")}s`,
            };
            if (!started) bar.start(p.steps, p.step, values);
            else bar.update(p.step, values);
            started = true;
          },
        },
      );
      bar.stop();
      process.stderr.write(
        `step ${result.step}, loss ${result.loss.toFixed(4)}, validation loss ${result.validationLoss?.toFixed(4) ?? "-"}\n`,
      );
    });
  });
}
