import { readFile } from "node:fs/promises";
import { basename, extname, resolve } from "node:path";
import { Option, type Command } from "commander";
import { ConfigError } from "@x/kernels";
import { loadChatTemplate, type ChatTemplate } from "../chat/template.js";
import { filesBeside, loadCheckpoint } from "../checkpoint/load.js";
import { onStop } from "../process_end.js";
import { serve } from "../serve/server.js";
import { adapterOption, adaptersOf, type AdapterFlag } from "./adapter_option.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { loadingBar } from "./progress.js";
import {
  BUNDLED,
  expectTokenizer,
  extension,
  integerIn,
  modelOption,
  numberIn,
  reasonOf,
  ropeOption,
  text,
  withDevice,
} from "./shared.js";

interface ServeFlags extends ComponentsFlag, AdapterFlag {
  model: string;
  name?: string;
  host: string;
  port: number;
  apiKey?: string;
  maxBatch: number;
  queue: number;
  maxLength?: number;
  grace: number;
  temperature: number;
  topP: number;
  maxTokens: number;
  ropeScaling?: string;
  chatTemplate?: string;
}

/** Tokens of a text where no limit is asked for: the caches of all rows are made at the start. */
const LENGTH = 4096;

const nameOf = ({ name, model }: ServeFlags): string =>
  name ??
  (model === BUNDLED ? "stories" : basename(resolve(model), extname(model) === ".gguf" ? ".gguf" : ""));

/** The template that is asked for, or the model's own. @throws FormatError */
async function templateOf({ model, chatTemplate: file }: ServeFlags): Promise<ChatTemplate | undefined> {
  const files = await filesBeside(model);
  const read = (name: string): Promise<string | undefined> => {
    const content = Object.hasOwn(files, name) ? files[name] : undefined;
    return Promise.resolve(content instanceof Uint8Array ? new TextDecoder().decode(content) : content);
  };
  return loadChatTemplate(
    read,
    file === undefined ? undefined : { file, text: await readFile(file, "utf8") },
  );
}

async function run(flags: ServeFlags): Promise<void> {
  const components = await componentsOf(flags);
  const adapters = await adaptersOf(flags.adapter);
  const chat = await templateOf(flags);
  await withDevice(async (gpu) => {
    const tokenizer = await expectTokenizer("serve", flags.model);
    const { model } = await loadCheckpoint(gpu, flags.model, {
      ...loadingBar(flags.model),
      change: extension(flags.ropeScaling),
      components,
      adapters,
      stored: true,
    });
    const length = flags.maxLength ?? Math.min(LENGTH, model.context);
    if (model.positions !== undefined && length > model.positions)
      throw new ConfigError(
        "serve",
        `--max-length is ${length}; the model has vectors for ${model.positions} positions`,
      );
    const say = (line: string): void => {
      process.stderr.write(`${line}\n`);
    };
    if (length > model.config.maxLength)
      say(`warning: --max-length is ${length}; the model is made for ${model.config.maxLength} tokens`);
    const name = nameOf(flags);
    // Signals that come while the server starts wait until it can be closed.
    let stop = (): void => undefined;
    const stopped = new Promise<void>((resolve) => {
      stop = resolve;
    });
    const done = onStop(stop);
    const { host, port, apiKey, maxBatch, queue, temperature, topP, maxTokens } = flags;
    const server = await serve(model, tokenizer, {
      ...{ name, host, port, apiKey, maxBatch, queue, length, chat },
      defaults: { temperature, topP, maxTokens },
      onFault: (error) => {
        say(error instanceof Error ? (error.stack ?? error.message) : reasonOf(error));
      },
    });
    const { rows, oneRow, bytesPerToken } = server.pool;
    if (oneRow !== undefined && maxBatch > 1) say(`one text at a time: ${oneRow}`);
    const size = (rows * length * bytesPerToken) / 2 ** 20;
    if (!chat)
      say("the model has no chat template: /v1/chat/completions is refused, or give --chat-template");
    say(`caches of ${rows} texts of ${length} tokens each: up to ${size.toFixed(1)} MiB`);
    process.stdout.write(`serving ${name} at ${server.url}/v1 on ${gpu.info.name}\n`);
    await stopped;
    say(`shutting down: running requests have ${flags.grace} s`);
    await server.close(flags.grace * 1000);
    done();
    model.dispose();
  });
}

/** `serve`: answer requests in the form of OpenAI's API. */
export function serveCommand(program: Command): void {
  program
    .command("serve")
    .description("serve the model over HTTP with OpenAI's API: completions, chat, streaming")
    .addOption(modelOption())
    .addOption(componentsOption())
    .addOption(adapterOption())
    .option("--name <id>", "the model's id in the API (default: the folder's or file's name)", text)
    .option("--host <address>", "address to listen at; 0.0.0.0 for all", text, "127.0.0.1")
    .option("--port <n>", "port to listen at; 0: a free one", integerIn(0, 65535), 8000)
    .addOption(
      new Option("--api-key <key>", "what clients must send as Authorization: Bearer (default: none)")
        .env("REFERENCE_MODEL_API_KEY")
        .argParser(text),
    )
    .option("--max-batch <n>", "texts that run in one batch", integerIn(1, 1024), 8)
    .option("--queue <n>", "texts that may wait; a request beyond them gets status 429", integerIn(0), 64)
    .option(
      "--max-length <n>",
      `tokens of a text, prompt and answer (default: the model's context, ${LENGTH} at most)`,
      integerIn(2),
    )
    .option("--chat-template <file>", "a template in Jinja's language, instead of the model's own", text)
    .option(
      "--grace <seconds>",
      "time that running requests have to end at a shutdown",
      numberIn(0, 86400),
      30,
    )
    .option("-t, --temperature <x>", "of requests that do not say", numberIn(0, 2), 1)
    .option("--top-p <x>", "of requests that do not say", numberIn(0, 1), 1)
    .option(
      "--max-tokens <n>",
      "of completions that do not say; a chat's answer may fill the context",
      integerIn(1),
      16,
    )
    .addOption(ropeOption())
    .action(run);
}
