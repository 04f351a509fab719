import { fstatSync } from "node:fs";
import type { Command } from "commander";
import { ConfigError } from "@x/kernels";
import { loadCheckpoint, loadFolderTokenizer } from "../checkpoint.js";
import { generate } from "../generate.js";
import {
  extension,
  integer,
  modelOption,
  number,
  reasonOf,
  repeatable,
  ropeOption,
  withDevice,
} from "./shared.js";

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

/** How long a prompt on standard input may take to begin. */
const PATIENCE = 5000;

/** False for terminals, devices such as /dev/null, and a closed standard input. */
function mayHoldText(): boolean {
  if (process.stdin.isTTY) return false;
  try {
    return !fstatSync(0).isCharacterDevice();
  } catch {
    return false;
  }
}

/** All of standard input; empty where it is a terminal or a device, or where nothing comes in time. */
async function readStdin(wait: boolean): Promise<string> {
  if (!wait && !mayHoldText()) return "";
  const chunks: Buffer[] = [];
  await new Promise<void>((resolve, reject) => {
    const timer = wait
      ? undefined
      : setTimeout(() => {
          process.stderr.write(
            `nothing came on standard input in ${PATIENCE / 1000} s: a new text begins ("--prompt -" waits)\n`,
          );
          process.stdin.destroy();
          resolve();
        }, PATIENCE);
    process.stdin.on("data", (chunk: Buffer) => {
      clearTimeout(timer);
      chunks.push(chunk);
    });
    process.stdin.on("end", () => {
      clearTimeout(timer);
      resolve();
    });
    process.stdin.on("error", reject);
  });
  return Buffer.concat(chunks)
    .toString("utf8")
    .replace(/\r?\n$/, "");
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

/** `generate`: continue a text. */
export function generateCommand(program: Command): void {
  program
    .command("generate", { isDefault: true })
    .description("continue a text, streaming it to the terminal")
    .addOption(modelOption())
    .option(
      "-p, --prompt <text>",
      "what to continue; - for standard input; without it, standard input if it is piped, else a new text",
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
    .addOption(repeatable("--stop <text>", "end before this text"))
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
          const prompt =
            flags.prompt === undefined || flags.prompt === "-"
              ? await readStdin(flags.prompt === "-")
              : flags.prompt;
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
}
