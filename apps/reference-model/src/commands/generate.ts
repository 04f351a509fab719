import { fstatSync } from "node:fs";
import type { Command } from "commander";
import { ConfigError, FormatError } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import { loadCheckpoint, loadFolderTokenizer } from "../checkpoint/load.js";
import { checkLength, CONTEXT_RULE, continuationLength } from "../model/context.js";
import { checkGeneration, generate } from "../model/generate.js";
import type { CausalLM } from "../model/model.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import {
  extension,
  integerIn,
  modelOption,
  numberIn,
  reasonOf,
  repeatable,
  ropeOption,
  utf8,
  withDevice,
} from "./shared.js";

interface GenerateFlags extends ComponentsFlag {
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
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)).replace(/\r?\n$/, "");
  } catch (cause) {
    throw new FormatError("standard input", "is not UTF-8 text", { cause });
  }
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

/** The ids to continue, and the prompt as text where it was given so. */
async function promptOf(
  flags: GenerateFlags,
  model: CausalLM,
  tokenizer: Tokenizer | undefined,
): Promise<{ ids: number[]; shown: string }> {
  if (flags.ids !== undefined) return { ids: parseIds(flags.ids), shown: "" };
  if (!tokenizer) throw new ConfigError("generate", `${flags.model} has no tokenizer; give --ids`);
  const piped = flags.prompt === undefined || flags.prompt === "-";
  const shown = piped ? await readStdin(flags.prompt === "-") : flags.prompt!;
  const ids = tokenizer.encode(shown);
  const start = tokenizer.bosTokenId ?? model.config.bosTokenId;
  if (ids.length > 0) return { ids, shown };
  if (start === undefined)
    throw new ConfigError("generate", "the prompt is empty, and the model has no beginning-of-text token");
  return { ids: [start], shown };
}

async function run(flags: GenerateFlags): Promise<void> {
  if (flags.ids !== undefined && flags.prompt !== undefined)
    throw new ConfigError("generate", "--ids and --prompt are both given; the text begins with one of them");
  const seed = flags.seed ?? Math.floor(Math.random() * 2 ** 32);
  const components = await componentsOf(flags);
  await withDevice(async (gpu) => {
    const { model } = await loadCheckpoint(gpu, flags.model, {
      change: extension(flags.ropeScaling),
      components,
      stored: true,
    });
    const tokenizer = await loadFolderTokenizer(flags.model);
    const { ids, shown } = await promptOf(flags, model, tokenizer);
    const warning = checkLength("generate", model, ids.length);
    if (warning) process.stderr.write(`warning: the prompt's ${warning}\n`);
    const options = {
      maxNewTokens: continuationLength(model, ids.length, flags.maxNewTokens),
      temperature: flags.greedy ? 0 : flags.temperature,
      topK: flags.topK,
      topP: flags.topP,
      minP: flags.minP,
      repetitionPenalty: flags.repetitionPenalty,
      seed,
      ignoreEos: flags.ignoreEos ?? false,
      stop: flags.stop,
    };
    checkGeneration(model, ids, options, tokenizer);
    if (!flags.json && shown !== "") process.stdout.write(shown);
    const result = await generate(model, ids, options, tokenizer, (text) => {
      if (!flags.json) process.stdout.write(text);
    });
    const full = result.reason === "length" && options.maxNewTokens < flags.maxNewTokens;
    const reason = full ? "context" : result.reason;
    const { ids: made, text, tokensPerSecond } = result;
    if (flags.json)
      process.stdout.write(`${JSON.stringify({ ids: made, text, reason, seed, tokensPerSecond })}\n`);
    else process.stdout.write(`${tokenizer ? "" : JSON.stringify(made)}\n`);
    const drawn = options.temperature === 0 ? "" : `, seed ${seed}`;
    const ended = full ? `, ended by the context of ${model.context} tokens` : "";
    process.stderr.write(
      `\n${made.length} tokens, ${tokensPerSecond.toFixed(1)} tokens/s on ${gpu.info.name}${drawn}${ended}\n`,
    );
    model.dispose();
  });
}

/** `generate`: continue a text. */
export function generateCommand(program: Command): void {
  program
    .command("generate", { isDefault: true })
    .description("continue a text, streaming it to the terminal")
    .addOption(modelOption())
    .addOption(componentsOption())
    .option(
      "-p, --prompt <text>",
      "what to continue; - for standard input; without it, standard input if it is piped, else a new text",
      utf8,
    )
    .option("--ids <json>", "ids in place of a prompt: '[1,2]'")
    .option("-t, --temperature <x>", "divides the logits", numberIn(0), 0.8)
    .option("--top-k <n>", "keep the n best tokens; 0: all", integerIn(0), 0)
    .option("--top-p <x>", "keep the fewest tokens that hold this probability", numberIn(0, 1), 0.95)
    .option(
      "--min-p <x>",
      "keep tokens with at least this share of the best one's probability",
      numberIn(0, 1),
      0,
    )
    .option("--repetition-penalty <x>", "above 1: less repetition", numberIn(Number.MIN_VALUE), 1)
    .option("--seed <n>", "equal seeds give equal texts (default: a new one, which is shown)", integerIn(0))
    .option("--greedy", "always the best token")
    .option("-n, --max-new-tokens <n>", "length at most; the context ends it too", integerIn(0), 256)
    .addOption(repeatable("--stop <text>", "end before this text, which may begin in the prompt"))
    .option("--ignore-eos", "go on after the end-of-text token")
    .option("--json", "print one line of JSON: {ids, text, reason, seed, tokensPerSecond}")
    .addOption(ropeOption())
    .addHelpText("after", `\n${CONTEXT_RULE}`)
    .action(run);
}
