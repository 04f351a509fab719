import { fstatSync } from "node:fs";
import type { Command } from "commander";
import { ConfigError, FormatError } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import {
  loadFolderTokenizer,
  loadModel,
  type Checkpoint,
  type EncoderDecoderCheckpoint,
} from "../checkpoint/load.js";
import { checkLength, CONTEXT_RULE, continuationLength } from "../model/context.js";
import { checkGeneration, generate } from "../model/generate.js";
import type { Decoder } from "../model/model.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { expectNoRope, hasEncoder, readText } from "./encoder_decoder.js";
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
  decoderIds?: string;
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

function parseIds(text: string, option = "--ids"): number[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ConfigError(
      option,
      `is ${JSON.stringify(text)}; it must be a JSON list of ids such as [1,2] (${reasonOf(cause)})`,
    );
  }
  if (!Array.isArray(value) || !value.every((x) => typeof x === "number" && Number.isInteger(x))) {
    throw new ConfigError(option, `is ${JSON.stringify(text)}; it must be a JSON list of ids such as [1,2]`);
  }
  return value as number[];
}

/** The ids to continue, and the prompt as text where it was given so. */
async function promptOf(
  flags: GenerateFlags,
  bosTokenId: number | undefined,
  tokenizer: Tokenizer | undefined,
): Promise<{ ids: number[]; shown: string }> {
  if (flags.ids !== undefined) return { ids: parseIds(flags.ids), shown: "" };
  if (!tokenizer) throw new ConfigError("generate", `${flags.model} has no tokenizer; give --ids`);
  const piped = flags.prompt === undefined || flags.prompt === "-";
  const shown = piped ? await readStdin(flags.prompt === "-") : flags.prompt!;
  const ids = tokenizer.encode(shown);
  const start = tokenizer.bosTokenId ?? bosTokenId;
  if (ids.length > 0) return { ids, shown };
  if (start === undefined)
    throw new ConfigError("generate", "the prompt is empty, and the model has no beginning-of-text token");
  return { ids: [start], shown };
}

/** What is generated from: a decoder, the ids that its text begins with, and the text to show before what comes. */
interface Start {
  readonly decoder: Decoder;
  readonly prompt: number[];
  readonly shown: string;
  readonly dispose: () => void;
}

const warn = (warning: string | undefined): void => {
  if (warning) process.stderr.write(`warning: the prompt's ${warning}\n`);
};

/** A decoder-only model goes on after the prompt; an encoder-decoder reads it, and writes a text of its own. */
async function startOf(
  flags: GenerateFlags,
  loaded: Checkpoint | EncoderDecoderCheckpoint,
  tokenizer: Tokenizer | undefined,
): Promise<Start> {
  if (!hasEncoder(loaded)) {
    const { model } = loaded;
    if (flags.decoderIds !== undefined)
      throw new ConfigError(
        "--decoder-ids",
        `is given; the model is of type ${loaded.config.family}, a decoder alone, which goes on after --ids`,
      );
    const { ids, shown } = await promptOf(flags, model.config.bosTokenId, tokenizer);
    warn(checkLength("generate", model, ids.length));
    return { decoder: model, prompt: ids, shown, dispose: () => undefined };
  }
  const { model, config } = loaded;
  const prompt =
    flags.decoderIds === undefined
      ? [config.decoderStartTokenId]
      : parseIds(flags.decoderIds, "--decoder-ids");
  const { ids } = await promptOf(flags, undefined, tokenizer);
  const { decoder, warning, dispose } = readText("generate", model, ids);
  warn(warning);
  warn(checkLength("generate: --decoder-ids", decoder, prompt.length));
  return { decoder, prompt, shown: "", dispose };
}

async function run(flags: GenerateFlags): Promise<void> {
  if (flags.ids !== undefined && flags.prompt !== undefined)
    throw new ConfigError("generate", "--ids and --prompt are both given; the text begins with one of them");
  const seed = flags.seed ?? Math.floor(Math.random() * 2 ** 32);
  const components = await componentsOf(flags);
  await withDevice(async (gpu) => {
    const change = extension(flags.ropeScaling);
    const loaded = await loadModel(gpu, flags.model, { change, components, stored: true });
    expectNoRope(flags.ropeScaling, loaded);
    const tokenizer = await loadFolderTokenizer(flags.model);
    const { decoder, prompt, shown, dispose } = await startOf(flags, loaded, tokenizer);
    const options = {
      maxNewTokens: continuationLength(decoder, prompt.length, flags.maxNewTokens),
      temperature: flags.greedy ? 0 : flags.temperature,
      topK: flags.topK,
      topP: flags.topP,
      minP: flags.minP,
      repetitionPenalty: flags.repetitionPenalty,
      seed,
      ignoreEos: flags.ignoreEos ?? false,
      stop: flags.stop,
    };
    checkGeneration(decoder, prompt, options, tokenizer);
    if (!flags.json && shown !== "") process.stdout.write(shown);
    const result = await generate(decoder, prompt, options, tokenizer, (text) => {
      if (!flags.json) process.stdout.write(text);
    });
    const full = result.reason === "length" && options.maxNewTokens < flags.maxNewTokens;
    const reason = full ? "context" : result.reason;
    const { ids: made, text, tokensPerSecond } = result;
    if (flags.json)
      process.stdout.write(`${JSON.stringify({ ids: made, text, reason, seed, tokensPerSecond })}\n`);
    else process.stdout.write(`${tokenizer ? "" : JSON.stringify(made)}\n`);
    const drawn = options.temperature === 0 ? "" : `, seed ${seed}`;
    const ended = full ? `, ended by the context of ${decoder.context} tokens` : "";
    process.stderr.write(
      `\n${made.length} tokens, ${tokensPerSecond.toFixed(1)} tokens/s on ${gpu.info.name}${drawn}${ended}\n`,
    );
    dispose();
    loaded.model.dispose();
  });
}

/** `generate`: continue a text. */
export function generateCommand(program: Command): void {
  program
    .command("generate", { isDefault: true })
    .description(
      "continue a text, or write the text that an encoder-decoder makes of it, streaming to the terminal",
    )
    .addOption(modelOption())
    .addOption(componentsOption())
    .option(
      "-p, --prompt <text>",
      "what to continue; - for standard input; without it, standard input if it is piped, else a new text",
      utf8,
    )
    .option(
      "--ids <json>",
      "ids in place of a prompt: '[1,2]'; an encoder-decoder reads them with its encoder",
    )
    .option(
      "--decoder-ids <json>",
      "ids that an encoder-decoder's output begins with (default: its decoder_start_token_id)",
    )
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
