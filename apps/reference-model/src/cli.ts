#!/usr/bin/env node
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import cliProgress from "cli-progress";
import { Command, InvalidArgumentError, Option } from "commander";
import { ConfigError, FormatError, KernelsError, openDevice, type Gpu } from "@x/kernels";
import { writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { TokenizerError } from "@x/tokenizer";
import { loadCheckpoint, loadFolderTokenizer, readConfig, readJson, writeAtomically } from "./checkpoint.js";
import { DOCUMENT_BREAK, readDocuments } from "./data.js";
import { evaluateStories, perplexity } from "./evaluate.js";
import { generate } from "./generate.js";
import { writeStory } from "./stories.js";
import { train, TRAINING_DEFAULTS, type TrainingOptions } from "./train.js";

/** The checkpoint that comes with the repository. */
const BUNDLED = fileURLToPath(new URL("../checkpoint", import.meta.url));

const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
};
const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const integer = (text: string): number => {
  const value = number(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError("It must be an integer.");
  return value;
};
const collect = (text: string, list: string[]): string[] => [...list, text];

/** Run with a device that is given back at the end. */
async function withDevice<T>(fn: (gpu: Gpu) => Promise<T>): Promise<T> {
  const gpu = await openDevice();
  try {
    return await fn(gpu);
  } finally {
    gpu.destroy();
  }
}

async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}

function parseIds(text: string): number[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ConfigError(
      "--ids",
      `is ${JSON.stringify(text)}; it must be a JSON list of ids such as [1,2] (${reasonOf(cause)})`,
    );
  }
  if (!Array.isArray(value) || !value.every((x) => typeof x === "number" && Number.isInteger(x))) {
    throw new ConfigError("--ids", `is ${JSON.stringify(text)}; it must be a JSON list of ids such as [1,2]`);
  }
  return value as number[];
}

/** Change the context extension of a model's config. */
function extension(
  ropeScaling: string | undefined,
): ((json: Record<string, unknown>) => Record<string, unknown>) | undefined {
  if (ropeScaling === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(ropeScaling);
  } catch (cause) {
    throw new ConfigError(
      "--rope-scaling",
      `is ${JSON.stringify(ropeScaling)}; it must be a JSON dictionary such as {"rope_type":"yarn","factor":4} (${reasonOf(cause)})`,
    );
  }
  return (json) => {
    const { rope_parameters: parameters, ...rest } = json;
    const old =
      typeof parameters === "object" && parameters !== null ? (parameters as Record<string, unknown>) : {};
    const theta = old["rope_theta"] ?? json["rope_theta"];
    return { ...rest, ...(theta === undefined ? {} : { rope_theta: theta }), rope_scaling: value };
  };
}

const modelOption = (): Option =>
  new Option("-m, --model <dir>", "model folder: config.json, model.safetensors, tokenizer.json").default(
    BUNDLED,
    "the bundled checkpoint",
  );
const ropeOption = (): Option =>
  new Option(
    "--rope-scaling <json>",
    'context extension instead of the model\'s own, as in Hugging Face configs: {"rope_type":"yarn","factor":4,..}',
  );

const program = new Command("reference-model")
  .description("A decoder-only Transformer on WebGPU: generate, train, evaluate.")
  .showHelpAfterError("(--help shows the options)")
  .configureHelp({ sortSubcommands: false });

interface GenerateFlags {
  model: string;
  prompt?: string;
  ids?: string;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  seed?: number;
  greedy?: true;
  maxNewTokens: number;
  stop: string[];
  ignoreEos?: true;
  json?: true;
  ropeScaling?: string;
}

program
  .command("generate", { isDefault: true })
  .description("continue a text, streaming it to the terminal")
  .addOption(modelOption())
  .option(
    "-p, --prompt <text>",
    "what to continue; without it, standard input if it is piped, else a new text",
  )
  .option("--ids <json>", "ids in place of a prompt: '[1,2]'")
  .option("-t, --temperature <x>", "divides the logits", number, 0.8)
  .option("--top-k <n>", "keep the n best tokens; 0: all", integer, 0)
  .option("--top-p <x>", "keep the fewest tokens that hold this probability", number, 0.95)
  .option("--min-p <x>", "keep tokens with at least this share of the best one's probability", number, 0)
  .option("--repetition-penalty <x>", "above 1: less repetition", number, 1)
  .option("--seed <n>", "equal seeds give equal texts (default: a new one)", integer)
  .option("--greedy", "always the best token")
  .option("-n, --max-new-tokens <n>", "length at most", integer, 256)
  .option("--stop <text>", "end before this text (may be given again)", collect, [])
  .option("--ignore-eos", "go on after the end-of-text token")
  .option("--json", "print one line of JSON: ids, text, tokensPerSecond")
  .addOption(ropeOption())
  .action(async (flags: GenerateFlags) => {
    await withDevice(async (gpu) => {
      const { model } = await loadCheckpoint(gpu, flags.model, extension(flags.ropeScaling));
      const tokenizer = await loadFolderTokenizer(flags.model);
      let ids: number[];
      let shown = "";
      if (flags.ids !== undefined) ids = parseIds(flags.ids);
      else {
        const piped = flags.prompt === undefined && !process.stdin.isTTY;
        const prompt = flags.prompt ?? (piped ? (await readStdin()).replace(/\r?\n$/, "") : "");
        if (!tokenizer) throw new ConfigError("generate", `${flags.model} has no tokenizer; give --ids`);
        ids = tokenizer.encode(prompt);
        const start = tokenizer.bosTokenId ?? model.config.bosTokenId;
        if (ids.length === 0 && start !== undefined) ids = [start];
        if (ids.length === 0)
          throw new ConfigError(
            "generate",
            "the prompt is empty, and the model has no beginning-of-text token",
          );
        shown = prompt;
      }
      if (!flags.json && shown !== "") process.stdout.write(shown);
      const result = await generate(
        model,
        ids,
        {
          maxNewTokens: flags.maxNewTokens,
          temperature: flags.greedy ? 0 : flags.temperature,
          topK: flags.topK,
          topP: flags.topP,
          minP: flags.minP,
          repetitionPenalty: flags.repetitionPenalty,
          seed: flags.seed ?? Math.floor(Math.random() * 2 ** 32),
          ignoreEos: flags.ignoreEos ?? false,
          stop: flags.stop,
        },
        tokenizer,
        (text) => {
          if (!flags.json) process.stdout.write(text);
        },
      );
      if (flags.json)
        process.stdout.write(
          `${JSON.stringify({ ids: result.ids, text: result.text, tokensPerSecond: result.tokensPerSecond })}\n`,
        );
      else {
        if (!tokenizer) process.stdout.write(JSON.stringify(result.ids));
        process.stdout.write("\n");
        process.stderr.write(
          `\n${result.ids.length} tokens, ${result.tokensPerSecond.toFixed(1)} tokens/s on ${gpu.info.name}\n`,
        );
      }
      model.dispose();
    });
  });

interface TrainFlags extends Partial<Record<keyof TrainingOptions, number>> {
  data?: string;
  out?: string;
  config?: string;
  modelConfig?: string;
  vocabSize?: number;
}

const trainCommand = program
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
  trainCommand.addOption(new Option(`--${flag} <x>`, `(default: ${value})`).argParser(number));
}
trainCommand.action(async (flags: TrainFlags) => {
  const file = flags.config === undefined ? {} : ((await readJson(flags.config)) as Record<string, unknown>);
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
      format: "{bar} {value}/{total} | loss {loss} | validation {validation} | {rate} tokens/s | {left} left",
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

program
  .command("logits")
  .description("logits of every position for lists of ids, as safetensors")
  .addOption(modelOption())
  .requiredOption("--ids <file>", 'JSON: [{"input_ids":[..]}, ..]')
  .requiredOption("--out <file>", "safetensors with logits.0, logits.1, ..: F32 [positions, vocab]")
  .addOption(ropeOption())
  .action(async (flags: { model: string; ids: string; out: string; ropeScaling?: string }) => {
    const list = await readJson(flags.ids);
    if (!Array.isArray(list)) throw new FormatError(flags.ids, 'must be a list of {"input_ids":[..]}');
    await withDevice(async (gpu) => {
      const { model } = await loadCheckpoint(gpu, flags.model, extension(flags.ropeScaling));
      const out: Record<string, TensorData> = {};
      for (const [i, item] of list.entries()) {
        const ids =
          typeof item === "object" && item !== null
            ? (item as Record<string, unknown>)["input_ids"]
            : undefined;
        if (
          !Array.isArray(ids) ||
          ids.length === 0 ||
          !ids.every(
            (x) => typeof x === "number" && Number.isInteger(x) && x >= 0 && x < model.config.vocabSize,
          )
        ) {
          throw new FormatError(
            flags.ids,
            `entry ${i}: input_ids must list ids in 0..${model.config.vocabSize - 1}`,
          );
        }
        const logits = gpu.scope(() => model.forward(gpu.tensor(ids as number[], [1, ids.length], "i32")));
        out[`logits.${i}`] = {
          shape: [ids.length, model.config.vocabSize],
          data: (await logits.read()) as Float32Array,
        };
        logits.dispose();
      }
      await writeAtomically(flags.out, writeSafetensors(out));
      model.dispose();
    });
  });

program
  .command("perplexity")
  .description("perplexity of a text")
  .addOption(modelOption())
  .requiredOption("-d, --data <path>", "UTF-8 text file or folder")
  .option("--seq-len <n>", "window", integer, 128)
  .addOption(ropeOption())
  .action(async (flags: { model: string; data: string; seqLen: number; ropeScaling?: string }) => {
    await withDevice(async (gpu) => {
      const { model } = await loadCheckpoint(gpu, flags.model, extension(flags.ropeScaling));
      const tokenizer = await loadFolderTokenizer(flags.model);
      if (!tokenizer) throw new ConfigError("perplexity", `${flags.model} has no tokenizer`);
      const result = await perplexity(gpu, model, tokenizer, await readDocuments(flags.data), flags.seqLen);
      process.stdout.write(
        `perplexity ${result.perplexity.toFixed(4)} (loss ${result.loss.toFixed(5)} over ${result.tokens} tokens)\n`,
      );
      model.dispose();
    });
  });

program
  .command("info")
  .description("the adapter, and a model's parameters and cache")
  .addOption(modelOption())
  .action(async (flags: { model: string }) => {
    await withDevice(async (gpu) => {
      const { info, features, limits } = gpu;
      const lines = [
        `adapter            ${info.name} (${info.vendor || "unknown vendor"}${info.software ? ", software" : ""})`,
        `features           f16 ${features.f16 ? "yes" : "no"}, subgroups ${features.subgroups ? `${features.subgroupMinSize} to ${features.subgroupMaxSize}` : "no"}, timestamps ${features.timestampQuery ? "yes" : "no"}`,
        `limits             ${limits.maxStorageBufferBindingSize / 2 ** 20} MiB a binding, ${limits.maxBufferSize / 2 ** 20} MiB a buffer, ${limits.maxStorageBuffersPerShaderStage} buffers, ${limits.maxComputeWorkgroupStorageSize / 1024} KiB of workgroup memory`,
      ];
      const { config } = await readConfig(flags.model);
      const { model } = await loadCheckpoint(gpu, flags.model);
      const { total, active } = model.countParameters();
      const state = model.createState({ maxLength: config.maxLength });
      lines.push(
        `model              ${config.family}, ${config.layers.length} layers, dim ${config.dim}, vocabulary ${config.vocabSize}`,
        `parameters         ${total} in all, ${Math.round(active)} active per token`,
        `cache              ${state.bytesPerToken} bytes per token`,
      );
      state.dispose();
      model.dispose();
      process.stdout.write(`${lines.join("\n")}\n`);
    });
  });

program
  .command("stories")
  .description("write stories of the repository's own grammar to a text file")
  .requiredOption("-o, --out <file>", "text file, stories separated by empty lines")
  .option("-n, --count <n>", "number of stories", integer, 12_000)
  .option("--first <n>", "seed of the first story", integer, 0)
  .action(async (flags: { out: string; count: number; first: number }) => {
    const stories = Array.from({ length: flags.count }, (_, i) => writeStory(flags.first + i));
    await mkdir(dirname(resolve(flags.out)), { recursive: true });
    await writeFile(flags.out, `${stories.join(DOCUMENT_BREAK)}\n`);
    process.stderr.write(`${flags.count} stories, ${new Set(stories).size} of them distinct\n`);
  });

program
  .command("evaluate-stories")
  .description(
    "judge a story model: perplexity on unseen stories, sentences that the grammar accepts, stories that are new",
  )
  .addOption(modelOption())
  .requiredOption("--training <file>", "the text it was trained on")
  .option("-n, --count <n>", "stories to sample", integer, 100)
  .option("--first-unseen <n>", "seed of the first story that was not trained on", integer, 1_000_000)
  .option("--temperature <x>", "divides the logits", number, 0.8)
  .option("--top-p <x>", "keep the fewest tokens that hold this probability", number, 0.95)
  .option("--out <file>", "also write the result as JSON")
  .action(
    async (flags: {
      model: string;
      training: string;
      count: number;
      firstUnseen: number;
      temperature: number;
      topP: number;
      out?: string;
    }) => {
      await withDevice(async (gpu) => {
        const { model } = await loadCheckpoint(gpu, flags.model);
        const tokenizer = await loadFolderTokenizer(flags.model);
        if (!tokenizer) throw new ConfigError("evaluate-stories", `${flags.model} has no tokenizer`);
        const training = new Set(await readDocuments(flags.training));
        const unseen = Array.from({ length: 500 }, (_, i) => writeStory(flags.firstUnseen + i)).filter(
          (s) => !training.has(s),
        );
        const text = await perplexity(gpu, model, tokenizer, unseen, 128);
        const sampled = await evaluateStories(model, tokenizer, training, flags.count, {
          maxNewTokens: 400,
          temperature: flags.temperature,
          topP: flags.topP,
          seed: 1,
        });
        const result = {
          unseenStories: unseen.length,
          perplexity: text.perplexity,
          loss: text.loss,
          ...sampled,
        };
        process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
        if (flags.out !== undefined) await writeAtomically(flags.out, `${JSON.stringify(result, null, 2)}\n`);
        model.dispose();
      });
    },
  );

program.parseAsync().catch((error: unknown) => {
  // What a user can act on is one line; anything else is a fault of ours and shows where.
  if (KernelsError.isInstance(error) || TokenizerError.isInstance(error))
    process.stderr.write(`error: ${(error as Error).message}\n`);
  else process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exitCode = 1;
});
