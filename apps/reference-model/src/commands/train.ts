import { dirname, resolve } from "node:path";
import cliProgress from "cli-progress";
import { Option, type Command } from "commander";
import { ConfigError } from "@x/kernels";
import { readJson } from "../checkpoint.js";
import { train, TRAINING_DEFAULTS, type TrainingOptions } from "../train.js";
import { integer, number, withDevice } from "./shared.js";

interface TrainFlags extends Partial<Record<keyof TrainingOptions, number>> {
  data?: string;
  out?: string;
  config?: string;
  modelConfig?: string;
  vocabSize?: number;
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
      "JSON with data, out, vocabSize, model (a config.json's content) and the options below; flags win",
    )
    .option("--model-config <file>", "a config.json whose shape the model takes")
    .option("--vocab-size <n>", "tokens to learn where the out folder has no tokenizer", integer);
  for (const [key, value] of Object.entries(TRAINING_DEFAULTS)) {
    const flag = key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
    command.addOption(new Option(`--${flag} <x>`, `(default: ${value})`).argParser(number));
  }
  command.action(async (flags: TrainFlags) => {
    const file =
      flags.config === undefined ? {} : ((await readJson(flags.config)) as Record<string, unknown>);
    const base = flags.config === undefined ? process.cwd() : dirname(flags.config);
    const path = (flag: string | undefined, key: string): string => {
      if (flag !== undefined) return flag;
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
    const known = ["data", "out", "vocabSize", "model", ...Object.keys(TRAINING_DEFAULTS)];
    for (const key of Object.keys(file))
      if (!known.includes(key))
        throw new ConfigError(flags.config ?? "train", `unknown key "${key}" (known: ${known.join(", ")})`);
    const model = flags.modelConfig === undefined ? file["model"] : await readJson(flags.modelConfig);
    if (typeof model !== "object" || model === null)
      throw new ConfigError(
        "train",
        "the model's shape is missing: --model-config FILE, or model in --config FILE",
      );
    const vocabSize = flags.vocabSize ?? file["vocabSize"] ?? 1024;
    if (typeof vocabSize !== "number")
      throw new ConfigError("train", `vocabSize is ${JSON.stringify(vocabSize)}; it must be a number`);
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
          data: path(flags.data, "data"),
          out: path(flags.out, "out"),
          model: model as Record<string, unknown>,
          vocabSize,
          options,
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
