import { fstatSync } from "node:fs";
import { Option, type Command } from "commander";
import { ConfigError, FormatError } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import {
  loadFolderTokenizer,
  loadModel,
  type Checkpoint,
  type EncoderDecoderCheckpoint,
} from "../checkpoint/load.js";
import { checkLength, CONTEXT_RULE, continuationLength } from "../model/context.js";
import { beamSearch } from "../model/beam_search.js";
import { Continuation } from "../model/continuation.js";
import { checkIds, generate, type Generated } from "../model/generate.js";
import type { Decoder } from "../model/model.js";
import { adapterOption, adaptersOf, type AdapterFlag } from "./adapter_option.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { expectNoRope, hasEncoder, readText } from "./encoder_decoder.js";
import { loadingBar } from "./progress.js";
import {
  extension,
  integerIn,
  modelOption,
  number,
  numberIn,
  reasonOf,
  repeatable,
  ropeOption,
  utf8,
  withDevice,
} from "./shared.js";

interface GenerateFlags extends ComponentsFlag, AdapterFlag {
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
  beams?: number;
  lengthPenalty?: number;
  earlyStopping?: "true" | "false" | "never";
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
  const { decoder, warning, dispose } = readText("generate", model, ids, flags.beams);
  warn(warning);
  warn(checkLength("generate: --decoder-ids", decoder, prompt.length));
  return { decoder, prompt, shown: "", dispose };
}

/** A text that was made, with how it was found. */
interface Made extends Pick<Generated, "text" | "reason" | "tokensPerSecond"> {
  readonly ids: readonly number[];
  readonly how: { readonly seed: number } | { readonly score: number };
  /** `how` for people. */
  readonly shown: string;
}

type Show = (text: string) => void;

/** Draws one token after another, and shows the text as it comes. */
async function drawText(
  flags: GenerateFlags,
  { decoder, prompt }: Start,
  maxNewTokens: number,
  tokenizer: Tokenizer | undefined,
  show: Show,
): Promise<Made> {
  const seed = flags.seed ?? Math.floor(Math.random() * 2 ** 32);
  const { topK, topP, minP, repetitionPenalty, ignoreEos = false, stop } = flags;
  const temperature = flags.greedy ? 0 : flags.temperature;
  const sampling = { temperature, topK, topP, minP, repetitionPenalty, seed };
  const options = { ...sampling, maxNewTokens, ignoreEos, stop };
  const made = await generate(decoder, prompt, options, tokenizer, show);
  return { ...made, how: { seed }, shown: temperature === 0 ? "" : `, seed ${seed}` };
}

/** Follows the best texts, and shows the best one when all have ended. */
async function searchText(
  { beams = 1, lengthPenalty, earlyStopping = "false", ignoreEos }: GenerateFlags,
  { decoder, prompt }: Start,
  maxNewTokens: number,
  tokenizer: Tokenizer | undefined,
  show: Show,
): Promise<Made> {
  const early = earlyStopping === "never" ? earlyStopping : earlyStopping === "true";
  const { hypotheses, tokensPerSecond } = await beamSearch(decoder, prompt, {
    ...{ beams, lengthPenalty, maxNewTokens, ignoreEos },
    earlyStopping: early,
  });
  const { ids, score } = hypotheses[0]!;
  const ended = !ignoreEos && decoder.config.eosTokenIds.includes(ids.at(-1) ?? -1);
  const continuation = tokenizer && new Continuation(tokenizer, prompt);
  for (const id of ended ? ids.slice(0, -1) : ids) continuation?.push(id);
  continuation?.end();
  const text = continuation?.text ?? "";
  show(text);
  const reason = ended ? "eos" : "length";
  const found = { ids, text, reason, tokensPerSecond } as const;
  return {
    ...found,
    how: { score },
    shown: `, ${beams} ${beams === 1 ? "beam" : "beams"}, score ${score.toFixed(4)}`,
  };
}

/** @throws ConfigError for options that exclude each other or need another one */
function checkFlags(flags: GenerateFlags): void {
  if (flags.ids !== undefined && flags.prompt !== undefined)
    throw new ConfigError("generate", "--ids and --prompt are both given; the text begins with one of them");
  for (const [option, value] of [
    ["--length-penalty", flags.lengthPenalty],
    ["--early-stopping", flags.earlyStopping],
  ])
    if (value !== undefined && flags.beams === undefined)
      throw new ConfigError("generate", `${option} is given without --beams, which it belongs to`);
}

async function run(flags: GenerateFlags): Promise<void> {
  checkFlags(flags);
  const components = await componentsOf(flags);
  const adapters = await adaptersOf(flags.adapter);
  await withDevice(async (gpu) => {
    const change = extension(flags.ropeScaling);
    const loaded = await loadModel(gpu, flags.model, {
      ...loadingBar(flags.model),
      change,
      components,
      adapters,
      stored: true,
    });
    expectNoRope(flags.ropeScaling, loaded);
    const tokenizer = await loadFolderTokenizer(flags.model);
    if (flags.stop.length > 0 && !tokenizer)
      throw new ConfigError("--stop", `is given; ${flags.model} has no tokenizer, which makes text of ids`);
    const start = await startOf(flags, loaded, tokenizer);
    const { decoder, prompt } = start;
    checkIds("generate", decoder, prompt);
    const maxNewTokens = continuationLength(decoder, prompt.length, flags.maxNewTokens);
    const show: Show = (text) => {
      if (!flags.json) process.stdout.write(text);
    };
    show(start.shown);
    const write = flags.beams === undefined ? drawText : searchText;
    const made = await write(flags, start, maxNewTokens, tokenizer, show);
    const full = made.reason === "length" && maxNewTokens < flags.maxNewTokens;
    const { ids, text, how, tokensPerSecond } = made;
    const reason = full ? "context" : made.reason;
    if (flags.json)
      process.stdout.write(`${JSON.stringify({ ids, text, reason, ...how, tokensPerSecond })}\n`);
    else process.stdout.write(`${tokenizer ? "" : JSON.stringify(ids)}\n`);
    const ended = full ? `, ended by the context of ${decoder.context} tokens` : "";
    process.stderr.write(
      `\n${ids.length} tokens, ${tokensPerSecond.toFixed(1)} tokens/s on ${gpu.info.name}${made.shown}${ended}\n`,
    );
    start.dispose();
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
    .addOption(adapterOption())
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
    .addOption(
      new Option(
        "--beams <n>",
        "beam search: follow the n best texts in place of drawing tokens, and show the best when it is found; 1 is greedy",
      )
        .argParser(integerIn(1))
        .conflicts(["temperature", "topK", "topP", "minP", "repetitionPenalty", "seed", "stop"]),
    )
    .option(
      "--length-penalty <x>",
      "with --beams: a text is worth the sum of its log-probabilities / length^x; above 0 favours long ones (default: 1)",
      number,
    )
    .addOption(
      new Option(
        "--early-stopping <rule>",
        "with --beams: end with as many texts as beams at once (true), when no beam is better as it is (false, the default), or when none can become better (never)",
      ).choices(["true", "false", "never"]),
    )
    .option("-n, --max-new-tokens <n>", "length at most; the context ends it too", integerIn(0), 256)
    .addOption(repeatable("--stop <text>", "end before this text, which may begin in the prompt"))
    .option("--ignore-eos", "go on after the end-of-text token")
    .option(
      "--json",
      "print one line of JSON: {ids, text, reason, seed, tokensPerSecond}; with --beams, score in place of seed",
    )
    .addOption(ropeOption())
    .addHelpText("after", `\n${CONTEXT_RULE}`)
    .action(run);
}
